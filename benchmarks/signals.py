"""Stop every command at random moments; nothing half-written may be taken for complete.

    python benchmarks/signals.py                  # 20 moments for each command and signal; hours
    python benchmarks/signals.py --moments 2 --commands predict,build

The outcomes are kept in the output folder: if the script is stopped, run it again to continue.
Remove `NAME.jsonl` there to repeat a command.

For each command the script measures an undisturbed run. Then it repeats the command, draws a moment
uniformly from the length of the undisturbed run, and sends SIGINT, SIGTERM or SIGKILL to the
command itself. After SIGINT and SIGTERM no process of it may run 10 s later, and no file may be
left but complete ones, with the content that a complete run gives them, the checkpoints of a
training, and the measured files of a build, which are in marked folders. After SIGKILL no process
may run three minutes later. Then the same command is run again: it must succeed, and leave the
files of the undisturbed run.
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import psutil
from results import add_tables, laser_jnd, table, write_result

from laser_dist.storage.temporary import temporary_folder

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
SECONDS_TO_STOP = {signal.SIGINT: 10, signal.SIGTERM: 10, signal.SIGKILL: 180}
TIMEOUT_S = 900
SETTINGS = (
    "backbone.filters=4", "backbone.latent_filters=6", "head.filters=4,4", "image.epochs=4",
    "jnd.epochs=2", "heads.epochs=4",
)  # fmt: skip
TRAIN = (
    "train", "lat", "--levels", "1", "--preset", "tiny", "--dataset", "data", "--output", "run",
    "--checkpoint-every", "2steps", *(f"--set={each}" for each in SETTINGS),
)  # fmt: skip
# Of interrupted work, in folders that a later run of the same command continues and removes.
RESUMABLE = re.compile(r"(^|/)(\.unfinished-[^/]+|\.archives|run/(checkpoints|cache|ray-\w+))/")
# Contents with times, durations or paths of the run in them, or nodes in the order of a hash.
VARYING = re.compile(
    r"/(logs|ray-[^/]+|checkpoints)/|\.keras$|/report/|results\.json$|config\.json$"
    r"|/(features|models)/.*\.json$|\.onnx(\.md)?$"
)
# Cached features are named by their model file, which has its time of writing in it.
HASH_OF_MODEL = re.compile(r"-[0-9a-f]{12}/")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line whose output is below the current folder.

    Attributes:
      arguments: words after `laser-jnd`.
      inputs: names of the files and folders that it reads, made by earlier commands.
    """

    arguments: tuple[str, ...]
    inputs: tuple[str, ...] = ()


COMMANDS = {
    "synthesize": Command(
        ("synthesize", "--output", "videoset", "--num-sources", "15", "--qps", "22,30,38")
    ),
    "build": Command(
        ("build", "videoset_jnd", "--manual-dir", "videoset", "--data-dir", "data"), ("videoset",)
    ),
    # One stage: a start of Ray takes longer than the training.
    "train": Command((*TRAIN, "--stages", "image"), ("data",)),
    "evaluate": Command(
        ("evaluate", "--model", "run", "--dataset", "data", "--output", "results"),
        ("data", "run"),
    ),
    "export": Command(("export", "run", "--format", "onnx", "--output", "model.onnx"), ("run",)),
    "predict": Command(
        ("predict", "clip.264", "--model", "run", "--format", "csv", "--output", "levels.csv"),
        ("run", "clip.264"),
    ),
    "encode": Command(
        ("encode", "clip.264", "--model", "model.onnx", "--output", "small.mp4"),
        ("model.onnx", "clip.264"),
    ),
    "encode-folder": Command(
        ("encode", "clips", "--recursive", "--model", "model.onnx", "--output", "small",
         "--workers", "2"),
        ("model.onnx", "clips"),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Outcome of one stopped command.

    Attributes:
      command: its name.
      signal: name of the signal.
      after_s: seconds after its start.
      problem: what is wrong; empty if nothing is.
    """

    command: str
    signal: str
    after_s: float
    problem: str


class Started:
    """A command and every process that it starts, known by a variable of their environment."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self._mark = f"LASER_JND_SIGNALS_{uuid.uuid4().hex}"
        with (folder.parent / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "laser_dist.commands.main", *arguments],
                cwd=folder,
                env={**os.environ, self._mark: "1", "TMPDIR": str(folder.parent / "tmp")},
                stdout=output,
                stderr=output,
            )

    def running(self) -> list[psutil.Process]:
        """Return its running processes."""
        found = []
        for each in psutil.process_iter():
            try:
                if self._mark in each.environ() and each.status() != psutil.STATUS_ZOMBIE:
                    found.append(each)
            except psutil.Error:  # gone, or of another user
                continue
        return found


def contents(folder: Path) -> dict[str, str]:
    """Return a hash of each file below a folder, by its name; "" where contents vary."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = HASH_OF_MODEL.sub("-*/", path.relative_to(folder).as_posix())
        while name in found:
            name += " (again)"
        if path.is_file():
            varies = VARYING.search(f"/{name}")
            found[name] = "" if varies else hashlib.sha256(path.read_bytes()).hexdigest()
    return {name: digest for name, digest in found.items() if "/logs/" not in f"/{name}"}


def fresh(base: Path, inputs: Path, command: Command) -> Path:
    """Return a new folder with the command's inputs and an empty folder for temporary files."""
    shutil.rmtree(base, ignore_errors=True)
    (base / "tmp").mkdir(parents=True)
    (base / "work").mkdir()
    for name in command.inputs:
        copy: Callable = shutil.copytree if (inputs / name).is_dir() else shutil.copy2
        copy(inputs / name, base / "work" / name)
    return base / "work"


def stopped(
    name: str, base: Path, inputs: Path, expected: dict[str, str], moment_s: float, number: int
) -> Outcome | None:
    """Stop a command at a moment, and run it again; None if it had not begun or was done."""
    command = COMMANDS[name]
    folder = fresh(base, inputs, command)
    before = contents(folder).keys()
    started = Started(command.arguments, folder)
    try:
        started.process.wait(moment_s)
        return None
    except subprocess.TimeoutExpired:
        started.process.send_signal(number)
    problems = []
    deadline = time.monotonic() + SECONDS_TO_STOP[signal.Signals(number)]
    while (left := started.running()) and time.monotonic() < deadline:
        time.sleep(0.2)
        started.process.poll()
    if left:
        problems.append(f"still running: {', '.join(each.name() for each in left)}")
        for each in left:
            each.kill()
    status = started.process.wait()
    if status == 0:  # it had done its work
        return None
    output = (base / "output.txt").read_bytes()
    if b"Fatal Python error: init_" in output or b"Could not import runpy module" in output:
        return None  # Python itself was not up yet, so no line of the command had run
    if number != signal.SIGKILL:
        if status not in (128 + number, -number):  # the same in a shell
            problems.append(f"exit status {status}")
        stray = [
            file
            for file, digest in contents(folder).items()
            if file not in before
            and not RESUMABLE.search(file)
            and not (digest and digest == expected.get(file))
        ]
        if name == "train":  # a run may be resumed, so all of it may stay
            stray = [file for file in stray if not file.startswith("run/")]
        problems += [f"left {file}" for file in stray[:3]]
        problems += [f"left {file} in TMPDIR" for file in os.listdir(base / "tmp")][:3]
    again = Started(command.arguments, folder)
    if again.process.wait(TIMEOUT_S):
        problems.append(f"the same command ended with status {again.process.returncode}")
    found = contents(folder)
    differing = sorted(
        file for file in found.keys() | expected.keys() if found.get(file) != expected.get(file)
    )
    problems += [f"differs: {file}" for file in differing[:3]]
    label = signal.Signals(number).name
    return Outcome(name, label, moment_s, "; ".join(problems))


def prepare(folder: Path) -> None:
    """Make the inputs of all commands, or reuse them."""
    os.chdir(folder)
    if not Path("clip.264").exists():
        for name in ("synthesize", "build", TRAIN, "export"):
            laser_jnd(*(COMMANDS[name].arguments if isinstance(name, str) else name))
        shutil.copy2(next(Path("videoset").rglob("*_qp_00.264")), "clip.264")
    if not Path("clips").exists():
        with temporary_folder(Path()) as made:
            for number, clip in enumerate(sorted(Path("videoset").rglob("*_qp_00.264"))[:4]):
                write_with_sound(clip, made / f"{number}.mp4")
            made.rename("clips")


def write_with_sound(clip: Path, path: Path) -> None:
    """Write the pictures of a clip, and a tone, into an MP4 file."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        video = target.add_stream("libx264", rate=stream.guessed_rate, options={"qp": "1"})
        video.width, video.height = stream.width, stream.height
        sound = target.add_stream("aac", rate=48000, layout="mono")
        for number, frame in enumerate(source.decode(stream)):
            frame.pts, frame.time_base = number, 1 / stream.guessed_rate
            target.mux(video.encode(frame))
        target.mux(video.encode())
        for number in range(100):
            wave = np.sin(np.arange(1024) / 20 + number).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
            frame.sample_rate, frame.pts = 48000, 1024 * number
            target.mux(sound.encode(frame))
        target.mux(sound.encode())


def undisturbed(name: str, base: Path, inputs: Path) -> tuple[float, dict[str, str]]:
    """Return how many seconds a command takes, and the contents of its folder afterwards."""
    folder = fresh(base, inputs, COMMANDS[name])
    begun = time.monotonic()
    if Started(COMMANDS[name].arguments, folder).process.wait(TIMEOUT_S):
        sys.exit(f"The undisturbed {name} failed: see {base / 'output.txt'}")
    return time.monotonic() - begun, contents(folder)


def measure(name: str, base: Path, moments: int, seed: int) -> list[Outcome]:
    """Stop a command at random moments by each signal, or continue what an earlier call began."""
    record = base / f"{name}.jsonl"
    lines = record.read_text().splitlines() if record.exists() else []
    outcomes = [Outcome(**json.loads(line)) for line in lines]
    if len(outcomes) == moments * len(SIGNALS):
        return outcomes
    inputs, rng = base / "inputs", np.random.default_rng((seed, len(outcomes)))
    length_s, expected = undisturbed(name, base / name, inputs)
    while len(outcomes) < moments * len(SIGNALS):
        done = collections.Counter(each.signal for each in outcomes)
        number = next(each for each in SIGNALS if done[each.name] < moments)
        moment_s = float(rng.uniform(0, length_s))
        outcome = stopped(name, base / name, inputs, expected, moment_s, number)
        if outcome is not None:
            outcomes.append(outcome)
            print(outcome, flush=True)
            if outcome.problem:
                shutil.copy2(base / name / "output.txt", base / f"{name}-{len(outcomes)}.txt")
            with record.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
    return outcomes


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--moments", type=int, default=20, help="for each signal (%(default)s)")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs") / "signals")
    arguments = parser.parse_args()
    # A shell that starts the script in the background lets it, and its children, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    base = arguments.output.resolve()
    inputs = base / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    prepare(inputs)
    tables, problems = [], 0
    names = arguments.commands.split(",")
    for name in names:
        outcomes = measure(name, base, arguments.moments, arguments.seed)
        rows = []
        for number in SIGNALS:
            label = signal.Signals(number).name
            here = [each for each in outcomes if each.signal == label]
            faulty = [each.problem for each in here if each.problem]
            rows.append([label, len(here), len(here) - len(faulty), "; ".join(faulty) or None])
            problems += len(faulty)
        caption = f"`{name}`, stopped at random moments"
        tables.append(table(caption, ["Signal", "Stopped", "Right", "Problems"], rows))
    if {*names} < COMMANDS.keys():
        add_tables("signals", tables)
    else:
        write_result(
            "signals",
            title="Stop commands",
            simulated=True,
            summary="Commands were stopped at random moments and run again. Right counts those "
            "that left no process and no stray file, and then completed.",
            tables=tables,
            notes=["Moments before Python itself has started are drawn again."],
        )
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
