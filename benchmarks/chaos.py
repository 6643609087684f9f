"""Kill random processes of a training at random moments; each run must get the same weights.

    python benchmarks/chaos.py                    # 20 runs; more than an hour on two cores
    python benchmarks/chaos.py --runs 3 --seed 7
    python benchmarks/chaos.py --freeze           # freeze a worker instead

The script first runs a training undisturbed, from backbones to predictor, at a tiny size: two
workers, checkpoints within epochs, cached features. Then it repeats the training. In each run it
draws a moment uniformly from the length of the undisturbed run, draws one of all processes, and
sends it SIGKILL: a worker, Ray's controller of the training, the command itself, or a Ray daemon.
Where the command fails with it, the script runs the command again, as a resubmitted job would; a
lost worker must not stop the command. At the end every array of every model, and of the last
checkpoint of every stage, which includes the optimizer, must be the same, bit for bit.

With `--freeze` it draws a worker and sends it SIGSTOP: the worker is alive and silent, and nothing
resumes it. Ray must detect that within `cluster.hang_timeout_s`, 30 s here, and replace it.
"""

import argparse
import contextlib
import io
import json
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
from results import add_tables, laser_jnd, table, write_result

# Tiny models, and enough epochs that training takes as long as the startup of Ray and TensorFlow.
SETTINGS = (
    "backbone.filters=4",
    "backbone.latent_filters=6",
    "head.filters=4,4",
    "image.epochs=40",
    "jnd.epochs=20",
    "heads.epochs=100",
)
MAX_COMMANDS = 4
SHORT_TIMEOUT = "cluster.hang_timeout_s=30"
WORKER = "TrainWorker"  # in the process names of Ray's training workers
TIMEOUT_S, HUNG = 900, 124
KILLED = "One process, drawn from all that ran, is killed by SIGKILL at a random moment."
FROZEN = (
    "A worker is stopped by SIGSTOP at a random moment after the workers have started, and nothing "
    "resumes it; `cluster.hang_timeout_s` is 30."
)
MODELS = ("image", "jnd1", "jnd2", "jnd3", "mj-lat", "predictor")


@dataclass(frozen=True)
class Outcome:
    """Outcome of one disturbed training.

    Attributes:
      seed: of the draw of the moment and the process.
      moment_s: seconds after its start, or after the start of its workers where one is frozen.
      victim: name of the process.
      during: last event in the training's log before that moment.
      commands: how often the command was run.
      seconds: from the first start to the exit.
      resumed: from where a stage resumed, as the training's log says.
      problem: arrays that differ, or another failure; empty if there is none.
    """

    seed: int
    moment_s: float
    victim: str
    during: str
    commands: int
    seconds: float
    resumed: str
    problem: str


def command(data: Path, run: Path, *extra: str) -> list[str]:
    """Return the training command, as a user types it."""
    settings = [f"--set={each}" for each in (*SETTINGS, *extra)]
    where = ("--dataset", str(data), "--output", str(run), "--workers", "2")
    program = [sys.executable, "-m", "laser_dist.commands.main"]
    often = ("--checkpoint-every", "3steps")
    return [*program, "train", "mj-lat", "--preset", "tiny", *where, *often, *settings]


def make_dataset(folder: Path) -> Path:
    """Build a small synthetic dataset, or reuse it."""
    videoset, data = str(folder / "videoset"), str(folder / "data")
    laser_jnd("synthesize", "--output", videoset, "--num-sources", "15", "--qps", "22,30,38")
    laser_jnd("build", "videoset_jnd", "--manual-dir", videoset, "--data-dir", data)
    return folder / "data"


def start(data: Path, run: Path, *extra: str) -> subprocess.Popen[bytes]:
    """Start or resume a training, with more settings."""
    run.parent.mkdir(parents=True, exist_ok=True)
    with (run.parent / "output.txt").open("ab") as output:
        return subprocess.Popen(command(data, run, *extra), stdout=output, stderr=output)


def finish(process: subprocess.Popen[bytes]) -> int:
    """Return its exit status; kill it after a timeout."""
    family = psutil.Process(process.pid).children(recursive=True)
    try:
        return process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        family = [*family, *psutil.Process(process.pid).children(recursive=True)]
        process.kill()
        process.wait()
        return HUNG
    finally:
        _, left = psutil.wait_procs(family, timeout=20)
        for each in left:  # Ray's processes normally exit with the command
            each.kill()


def victims(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the command and all its descendants."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def name_of(process: psutil.Process, command_pid: int) -> str:
    """Return a short name of a process."""
    if process.pid == command_pid:
        return "the command"
    words = process.cmdline()
    if words and words[0].startswith("ray::"):
        return words[0].split(".")[0]
    return process.name()


def disturbed(
    data: Path, folder: Path, seed: int, length_s: float, expected: Any, *, freeze: bool
) -> Outcome:
    """Run a training and kill one of its processes, or freeze one of its workers."""
    rng = np.random.default_rng(seed)
    moment_s = float(rng.uniform(0, length_s))
    while True:
        outcome = disturb(data, folder, seed, rng, moment_s, expected, freeze=freeze)
        if outcome is not None:
            return outcome
        moment_s = float(rng.uniform(0, moment_s))  # it had exited: take an earlier moment


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
    """Do the same at a given moment; return None if no process was left then."""
    run = folder / f"seed{seed}" / "run"
    shutil.rmtree(run.parent, ignore_errors=True)
    started = time.monotonic()
    extra = (SHORT_TIMEOUT,) if freeze else ()
    process = start(data, run, *extra)
    while freeze and process.poll() is None and not workers(process):
        time.sleep(0.2)
    time.sleep(moment_s)
    alive = workers(process) if freeze else victims(process)
    during = last_event(run)
    if not alive:
        exit_status(process)
        return None
    try:
        chosen = alive[rng.integers(len(alive))]
        victim = name_of(chosen, process.pid)
        chosen.send_signal(signal.SIGSTOP if freeze else signal.SIGKILL)
    except psutil.NoSuchProcess:
        exit_status(process)
        return None
    if chosen.pid == process.pid:  # its children exit after it, in their own time
        process.wait()
        _, left = psutil.wait_procs(alive, timeout=30)
        for each in left:
            each.kill()
    commands = 1
    while (status := exit_status(process)) and status != HUNG and commands < MAX_COMMANDS:
        commands += 1
        process = start(data, run, *extra)
    seconds = time.monotonic() - started
    problems = [f"exit status {status}"] if status else []
    if WORKER in victim and commands > 1:
        problems.append("the command failed with its worker")
    problems.append(difference(run, expected))
    problem = "; ".join(filter(None, problems))
    return Outcome(seed, moment_s, victim, during, commands, seconds, resumed(run), problem)


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the workers of the training."""
    found = []
    for each in victims(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            if WORKER in name_of(each, process.pid):
                found.append(each)
    return found


def exit_status(process: subprocess.Popen[bytes]) -> int:
    """Return the exit status of a command that may have exited already."""
    return finish(process) if process.poll() is None else process.returncode


def events(run: Path) -> list[dict[str, Any]]:
    """Return the events in a training's log, without half a line that a killed worker may leave."""
    found = []
    for path in (run / "logs" / "events").glob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def resumed(run: Path) -> str:
    """Return from where stages resumed, such as "jnd2 after epoch 3, step 3"."""
    texts = (event.get("text", "") for event in events(run))
    return "; ".join(text.replace(": resumed", "") for text in texts if "resumed after" in text)


def last_event(run: Path) -> str:
    """Return the last event in a training's log."""
    logged = events(run)
    if not logged:
        return "starting"
    last = logged[-1]
    where = " ".join(str(last[name]) for name in ("stage", "epoch", "step") if name in last)
    return last.get("text") or f"{last['kind']} {where}"


def arrays(run: Path) -> dict[str, np.ndarray]:
    """Return all weights of all models and last checkpoints, by model and name."""
    found: dict[str, np.ndarray] = {}
    for stage in MODELS[:-1]:
        with np.load(max((run / "checkpoints" / stage).glob("epoch-*.npz"))) as checkpoint:
            state = [name for name in checkpoint.files if name != "about"]
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
    """Return how a run's weights differ from the expected ones; empty if they do not."""
    try:
        got = arrays(run)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        return f"{type(error).__name__}: {error}"
    if got.keys() != expected.keys():
        return f"{len(got)} arrays, not {len(expected)}"
    other = [name for name in expected if got[name].tobytes() != expected[name].tobytes()]
    return f"{len(other)} of {len(expected)} arrays differ, such as {other[0]}" if other else ""


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="disturbed runs (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run (%(default)s)")
    parser.add_argument("--freeze", action="store_true", help="freeze a worker, kill nothing")
    parser.add_argument("--output", type=Path, default=Path("runs") / "chaos")
    arguments = parser.parse_args()
    folder = arguments.output.resolve()
    data = make_dataset(folder)
    shutil.rmtree(folder / "undisturbed", ignore_errors=True)
    started = time.monotonic()
    if status := finish(start(data, folder / "undisturbed" / "run")):
        sys.exit(f"The undisturbed training failed with exit status {status}.")
    length_s = time.monotonic() - started
    expected = arrays(folder / "undisturbed" / "run")
    outcomes = []
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        outcome = disturbed(data, folder, seed, length_s, expected, freeze=arguments.freeze)
        outcomes.append(outcome)
        print(outcome, flush=True)
    measured = table(
        f"{FROZEN if arguments.freeze else KILLED} `mj-lat` at a tiny size, two workers, a "
        "checkpoint every three steps",
        ["Seed", "After (s)", "Frozen" if arguments.freeze else "Killed", "During", "Commands"]
        + ["Time (s)", "Resumed from", "Problem"],
        [
            [each.seed, round(each.moment_s, 1), each.victim, each.during, each.commands]
            + [round(each.seconds), each.resumed or None, each.problem or None]
            for each in outcomes
        ],
        details=True,
    )
    good = sum(not outcome.problem for outcome in outcomes)
    if arguments.freeze:
        add_tables("chaos", [measured])
    else:
        write_result(
            "chaos",
            title="Kill and freeze processes",
            simulated=True,
            summary=f"{good} of {len(outcomes)} runs in which a process was killed got the same "
            f"{len(expected)} arrays as the undisturbed run, bit for bit.",
            tables=[measured],
            keep=FROZEN,
            notes=[f"The undisturbed run took {length_s:.0f} s."],
        )
    sys.exit(0 if good == len(outcomes) else 1)


if __name__ == "__main__":
    main()
