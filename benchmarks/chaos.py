"""Kills random processes of trainings at random moments: each has to end with the same weights.

    python benchmarks/chaos.py                    # 20 moments; more than an hour on two cores
    python benchmarks/chaos.py --moments 3 --seed 7
    python benchmarks/chaos.py --freeze           # a worker hangs instead

First a training that nothing disturbs, backbones to predictor, at a tiny size: two workers,
checkpoints within epochs, features kept in files. Then the same training again and again, and in
each, at a moment drawn evenly over the undisturbed one's length, one process drawn from all that
run is ended by SIGKILL: a worker, Ray's controller of the training, the command itself, or a daemon
of Ray's. Where the command ends with it, it is given again, as a job is submitted again; a lost
worker must not end it. In the end every array of every model, and of every stage's last checkpoint,
which holds the optimizer too, has to be the same, bit for bit.

With `--freeze` a worker is drawn and stopped by SIGSTOP: alive and silent. Nobody wakes it; it has
to be found by `cluster.hang_timeout_s`, here 30 s, and replaced.
"""

import argparse
import contextlib
import io
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil

from laser_dist.training.storage.logs import events_in

# Tiny models, and epochs enough that learning takes as long as Ray and TensorFlow take to start.
SETTINGS = (
    "backbone.filters=4",
    "backbone.latent_filters=6",
    "head.filters=4,4",
    "image.epochs=40",
    "jnd.epochs=20",
    "heads.epochs=100",
)
MAX_TRIES = 4
SOON = "cluster.hang_timeout_s=30"
WORKER = "TrainWorker"  # in the names of Ray's processes that train
LIMIT_S, HUNG = 900, 124
MODELS = ("image", "jnd1", "jnd2", "jnd3", "mj-lat", "predictor")


@dataclass(frozen=True)
class Outcome:
    """Of one disturbed training.

    Attributes:
      seed: that moment and process were drawn with.
      moment_s: after its start, or after its workers' where one is frozen.
      victim: the process's name.
      doing: the last that the training's log said before.
      tries: how often the command was given.
      took_s: from the first start to the end.
      went_on: from where a stage did, as the training's log says.
      wrong: arrays that are not the same, or what else should not have been; empty if all is right.
    """

    seed: int
    moment_s: float
    victim: str
    doing: str
    tries: int
    took_s: float
    went_on: str
    wrong: str


def command(data: Path, run: Path, *extra: str) -> list[str]:
    """The training, as a user types it."""
    settings = [f"--set={each}" for each in (*SETTINGS, *extra)]
    where = ("--dataset", str(data), "--output", str(run), "--workers", "2")
    program = [sys.executable, "-m", "laser_dist.commands.main"]
    often = ("--checkpoint-every-steps", "3")
    return [*program, "train", "mj-lat", "--preset", "tiny", *where, *often, *settings]


def make_dataset(folder: Path) -> Path:
    """A small synthetic dataset; an existing one is reused."""
    program = [sys.executable, "-m", "laser_dist.commands.main"]
    videoset, data = str(folder / "videoset"), str(folder / "data")
    small = ("--num-sources", "15", "--qps", "22,30,38")
    for arguments in (
        ("synthesize", "--output", videoset, *small),
        ("build", "videoset_jnd", "--manual-dir", videoset, "--data-dir", data),
    ):
        subprocess.run([*program, *arguments], check=True, stdout=subprocess.DEVNULL)
    return folder / "data"


def start(data: Path, run: Path, *extra: str) -> subprocess.Popen[bytes]:
    """Begins a training, or goes on with it, with more settings."""
    run.parent.mkdir(parents=True, exist_ok=True)
    with (run.parent / "output.txt").open("ab") as output:
        return subprocess.Popen(command(data, run, *extra), stdout=output, stderr=output)


def finish(process: subprocess.Popen[bytes]) -> int:
    """Its exit status; one that takes too long is ended, and has hung."""
    family = psutil.Process(process.pid).children(recursive=True)
    try:
        return process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        family = [*family, *psutil.Process(process.pid).children(recursive=True)]
        process.kill()
        process.wait()
        return HUNG
    finally:
        _, left = psutil.wait_procs(family, timeout=20)
        for each in left:  # Ray's own, which end with the command but for accidents
            each.kill()


def victims(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The command and all that runs under it."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def name_of(process: psutil.Process, command_pid: int) -> str:
    """For people."""
    if process.pid == command_pid:
        return "the command"
    words = process.cmdline()
    if words and words[0].startswith("ray::"):
        return words[0].split(".")[0]
    return process.name()


def disturbed(
    data: Path, folder: Path, seed: int, length_s: float, expected: Any, *, freeze: bool
) -> Outcome:
    """One training of which one process is killed, or one worker frozen."""
    rng = np.random.default_rng(seed)
    moment_s = float(rng.uniform(0, length_s))
    while True:
        one = disturb(data, folder, seed, rng, moment_s, expected, freeze=freeze)
        if one is not None:
            return one
        moment_s = float(rng.uniform(0, moment_s))  # it had ended: something is to be hit


def disturb(
    data: Path,
    folder: Path,
    seed: int,
    rng: np.random.Generator,
    moment_s: float,
    expected: Any,
    *,
    freeze: bool,
) -> Outcome | None:
    """The same at a given moment, of freezing after workers are there; None if none were left."""
    run = folder / f"seed{seed}" / "run"
    shutil.rmtree(run.parent, ignore_errors=True)
    started = time.monotonic()
    extra = (SOON,) if freeze else ()
    process = start(data, run, *extra)
    while freeze and process.poll() is None and not workers(process):
        time.sleep(0.2)
    time.sleep(moment_s)
    alive = workers(process) if freeze else victims(process)
    doing = last_word(run)
    if not alive:
        finish_or_known(process)
        return None
    try:
        chosen = alive[rng.integers(len(alive))]
        victim = name_of(chosen, process.pid)
        chosen.send_signal(signal.SIGSTOP if freeze else signal.SIGKILL)
    except psutil.NoSuchProcess:
        finish_or_known(process)
        return None
    if chosen.pid == process.pid:  # its children end with it, in their own time
        process.wait()
        _, left = psutil.wait_procs(alive, timeout=30)
        for each in left:
            each.kill()
    tries = 1
    while (status := finish_or_known(process)) and status != HUNG and tries < MAX_TRIES:
        tries += 1
        process = start(data, run, *extra)
    took_s = time.monotonic() - started
    faults = [f"status {status}"] if status else []
    if WORKER in victim and tries > 1:
        faults.append("the command ended with its worker")
    faults.append(difference(run, expected))
    wrong = "; ".join(filter(None, faults))
    return Outcome(seed, moment_s, victim, doing, tries, took_s, went_on(run), wrong)


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The training's workers among all that runs."""
    found = []
    for each in victims(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            if WORKER in name_of(each, process.pid):
                found.append(each)
    return found


def finish_or_known(process: subprocess.Popen[bytes]) -> int:
    """The exit status of a command that may have ended already."""
    return finish(process) if process.poll() is None else process.returncode


def events(run: Path) -> list[dict[str, Any]]:
    """What a training's log has told."""
    paths = (run / "logs" / "events").glob("*.jsonl")
    return [event for path in paths for event in events_in(path.read_bytes())]


def went_on(run: Path) -> str:
    """From where stages went on, such as "jnd2 after epoch 3, step 3"."""
    texts = (event.get("text", "") for event in events(run))
    return "; ".join(text.replace(": goes on", "") for text in texts if "goes on after" in text)


def last_word(run: Path) -> str:
    """What a training's log said last."""
    told = events(run)
    if not told:
        return "starting"
    said = told[-1]
    where = " ".join(str(said[name]) for name in ("stage", "epoch", "step") if name in said)
    return said.get("text") or f"{said['kind']} {where}"


def arrays(run: Path) -> dict[str, np.ndarray]:
    """All weights of all models, and all of the last checkpoints, by model and name."""
    found: dict[str, np.ndarray] = {}
    for stage in MODELS[:-1]:
        with np.load(max((run / "checkpoints" / stage).glob("epoch-*.npz"))) as checkpoint:
            state = [name for name in checkpoint.files if name.startswith("arr_")]
            found |= {f"checkpoint of {stage}:{name}": checkpoint[name] for name in state}
    for model in MODELS:
        with zipfile.ZipFile(run / "models" / f"{model}.keras") as archive:
            content = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content) as file:

            def keep(name: str, item: Any, model: str = model) -> None:
                if isinstance(item, h5py.Dataset):
                    found[f"{model}:{name}"] = np.asarray(item)

            file.visititems(keep)
    return found


def difference(run: Path, expected: dict[str, np.ndarray]) -> str:
    """How a run's weights differ from the expected ones; empty if they do not."""
    try:
        got = arrays(run)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        return f"{type(error).__name__}: {error}"
    if got.keys() != expected.keys():
        return f"{len(got)} arrays in place of {len(expected)}"
    other = [name for name in expected if got[name].tobytes() != expected[name].tobytes()]
    return f"{len(other)} of {len(expected)} arrays, such as {other[0]}" if other else ""


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first (default: %(default)s)")
    parser.add_argument("--freeze", action="store_true", help="a worker hangs instead")
    parser.add_argument("--output", type=Path, default=Path("runs") / "chaos")
    arguments = parser.parse_args()
    folder = arguments.output.resolve()
    data = make_dataset(folder)
    shutil.rmtree(folder / "unbroken", ignore_errors=True)
    started = time.monotonic()
    if status := finish(start(data, folder / "unbroken" / "run")):
        sys.exit(f"The undisturbed training ended with status {status}.")
    length_s = time.monotonic() - started
    expected = arrays(folder / "unbroken" / "run")
    print(f"Undisturbed: {length_s:.0f} s, {len(expected)} arrays.\n")
    hit = "frozen" if arguments.freeze else "killed"
    print(f"| seed | after | {hit} | while | commands | took | went on | wrong |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    good = 0
    for seed in range(arguments.seed, arguments.seed + arguments.moments):
        one = disturbed(data, folder, seed, length_s, expected, freeze=arguments.freeze)
        good += not one.wrong
        print(
            f"| {one.seed} | {one.moment_s:.1f} s | {one.victim} | {one.doing} | {one.tries} "
            f"| {one.took_s:.0f} s | {one.went_on or 'anew'} | {one.wrong or 'nothing'} |",
            flush=True,
        )
    print(f"\n{good} of {arguments.moments} ended right.")
    sys.exit(0 if good == arguments.moments else 1)


if __name__ == "__main__":
    main()
