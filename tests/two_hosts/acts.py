"""Trains on hosts of their own addresses, of which one is cut off: `make test-cluster`.

    python tests/two_hosts/acts.py [--seed N] [--acts undisturbed,returns,flaps,replaced] [--keep]

A Ray head without cores on one host, a node of one core on each of two others, one worker on each.

- undisturbed: what the others are compared with.
- returns: a host's link goes down in mid-epoch, at a random step; once Ray takes it for dead, it
  comes back and joins anew. The weights in the end are those of `undisturbed`, bit for bit.
- flaps: the link comes back after some seconds. If Ray takes the node for dead all the same, the
  node ends itself, and is started anew, as whatever watches over it would. The same weights.
- replaced: the host does not come back, another one joins. The same weights.

Needs root, and leave to make network namespaces.
"""

import argparse
import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from hosts import HEAD_PORT, Hosts, can_make_namespaces

ROOT = Path(__file__).parents[2]
ACTS = ("undisturbed", "returns", "flaps", "replaced")
HEAD, FIRST, SECOND, SPARE = "head", "first", "second", "spare"
STAGE, NUM_EPOCHS, STEPS = "image", 24, 16
FLAP_S = 8.0
LONGEST_ACT_S = 420.0
NODE_TRIES = 4
# Ray asks a node every period; so many failures in a row, each after the timeout, and it is dead.
# Ray's own are 3000, 10000 and 5: a cut-off host is missed only after about a minute.
HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
SETTINGS = {
    "backbone.filters": 4, "backbone.latent_filters": 6, "backbone.height": 32,
    "backbone.width": 48, "head.filters": "6,8", "image.crop": "none", "image.epochs": NUM_EPOCHS,
    "jnd.crop": "none", "jnd.epochs": 2, "heads.epochs": 3, "heads.batch_size": 4,
    "cluster.num_workers": 2, "cluster.synchronized_batch_norm": "true",
}  # fmt: skip


class ActFailed(Exception):
    """An act that did not end as it should."""


@dataclass(frozen=True)
class Outcome:
    """How an act went: seconds in all, a line on what happened, weights by model and name."""

    seconds: float
    told: str
    weights: dict[str, Any]


class Cluster:
    """Ray on the hosts."""

    def __init__(self, scratch: Path, health: dict[str, str]) -> None:
        self.scratch = scratch
        self.hosts = Hosts([HEAD, FIRST, SECOND, SPARE])
        self.env = {
            **os.environ,
            **health,
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }

    def start_node(self, name: str) -> None:
        """Ray on a host, in several tries: it gives a slow machine 15 to 30 s and then gives up."""
        log = self.scratch / f"{name}.log"
        for _ in range(NODE_TRIES):
            before = len(log.read_text(errors="replace")) if log.exists() else 0
            process = self._start_node(name, log)
            while process.poll() is None:
                if "will now block" in log.read_text(errors="replace")[before:]:
                    return
                time.sleep(0.3)
            self.hosts.end_processes(name)  # what the failed try has left
        raise ActFailed(f"Ray on host {name} did not start in {NODE_TRIES} tries, see {log}")

    def _start_node(self, name: str, log: Path) -> subprocess.Popen[bytes]:
        """The head has no core for workers, the others have one."""
        address = f"{self.hosts.address(HEAD)}:{HEAD_PORT}"
        temp = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.scratch))
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--block"),
            *("--node-ip-address", self.hosts.address(name), "--temp-dir", str(temp)),
            *("--object-store-memory", str(100 * 2**20), "--disable-usage-stats"),
        ]
        if name == HEAD:
            self.head_temp = temp
            command += ["--head", "--port", str(HEAD_PORT), "--num-cpus", "0"]
            command += ["--include-dashboard", "false"]
        else:
            command += ["--address", address, "--num-cpus", "1"]
        return self.hosts.start(name, command, self.env, log)

    def train(self, dataset_dir: Path, run_dir: Path) -> subprocess.Popen[bytes]:
        """Starts `laser-jnd train` beside the head."""
        command = [sys.executable, "-m", "laser_dist.commands.main", "train", "lat", "--level", "1"]
        command += ["--preset", "tiny", "--dataset", str(dataset_dir), "--output", str(run_dir)]
        command += [f"--set={path}={value}" for path, value in SETTINGS.items()]
        env = {**self.env, "RAY_ADDRESS": f"{self.hosts.address(HEAD)}:{HEAD_PORT}"}
        return self.hosts.start(HEAD, command, env, run_dir.with_suffix(".log"))

    def dead_nodes(self) -> int:
        """How many nodes Ray has taken for dead so far, by its head's own log."""
        log = self.head_temp / "session_latest" / "logs" / "gcs_server.out"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return sum("is dead because the health check failed" in line for line in lines)


class Run:
    """One training, watched through its own events."""

    def __init__(self, cluster: Cluster, dataset_dir: Path, act: str) -> None:
        self.run_dir = cluster.scratch / act / "run"
        self.run_dir.parent.mkdir()
        self.started = time.monotonic()
        self.process = cluster.train(dataset_dir, self.run_dir)

    def events(self) -> list[dict[str, Any]]:
        """All so far."""
        lines: list[str] = []
        for path in sorted((self.run_dir / "logs" / "events").glob("*.jsonl")):
            text = path.read_text()
            lines += text[: text.rfind("\n") + 1].splitlines()
        told = []
        for line in lines:
            with contextlib.suppress(ValueError):  # half a line of a worker that was ended
                told.append(json.loads(line))
        return told

    def wait(self, what: str, until: Callable[[], bool]) -> float:
        """Seconds until something holds."""
        started = time.monotonic()
        while not until():
            if self.process.poll() is not None:
                raise ActFailed(f"training ended before {what}: {self.last_line()}")
            if time.monotonic() - self.started > LONGEST_ACT_S:
                raise ActFailed(f"{LONGEST_ACT_S:.0f} s passed before {what}")
            time.sleep(0.2)
        return time.monotonic() - started

    def wait_for_step(self, epoch: int, step: int) -> None:
        """Until a step of the first stage is done, or a later one."""
        self.wait(
            f"epoch {epoch}, step {step}",
            lambda: any(
                event["kind"] == "step" and (event["epoch"], event["step"]) >= (epoch, step)
                for event in self.events()[-3:]
            ),
        )

    def wait_for_another_event(self) -> float:
        """Seconds until the chief says anything more."""
        before = len(self.events())
        return self.wait("training goes on", lambda: len(self.events()) > before)

    def end(self) -> None:
        """Waits for the command's end."""
        left = max(1.0, LONGEST_ACT_S - (time.monotonic() - self.started))
        try:
            status = self.process.wait(left)
        except subprocess.TimeoutExpired as error:
            raise ActFailed(f"no end after {LONGEST_ACT_S:.0f} s") from error
        if status:
            raise ActFailed(f"status {status}: {self.last_line()}")

    def last_line(self) -> str:
        """Of what the command said."""
        log = self.run_dir.with_suffix(".log")
        return (log.read_text(errors="replace").strip().splitlines() or ["nothing was said"])[-1]

    def weights(self) -> dict[str, Any]:
        """Arrays of all models, as they lie in the files."""
        import h5py

        arrays: dict[str, Any] = {}
        for path in sorted((self.run_dir / "models").glob("*.keras")):
            with zipfile.ZipFile(path) as file:
                stored = BytesIO(file.read("model.weights.h5"))
            with h5py.File(stored) as weights:
                weights.visititems(
                    lambda name, item, path=path: (
                        arrays.update({f"{path.stem}/{name}": item[()]})
                        if isinstance(item, h5py.Dataset)
                        else None
                    )
                )
        return arrays


def play(cluster: Cluster, dataset_dir: Path, act: str, rng: random.Random) -> Outcome:
    """One act, from the command to its models."""
    epoch, step = rng.randint(3, NUM_EPOCHS // 2), rng.randint(2, STEPS - 1)
    run = Run(cluster, dataset_dir, act)
    try:
        return _play(cluster, run, act, epoch, step)
    finally:
        run.process.terminate()  # of an act that failed: the next one needs its cores


def _play(cluster: Cluster, run: Run, act: str, epoch: int, step: int) -> Outcome:
    told = ""
    if act != "undisturbed":
        run.wait_for_step(epoch, step)
        dead = cluster.dead_nodes()
        cluster.hosts.cut_off(SECOND)
        told = f"cut at epoch {epoch}, step {step}"
        if act == "flaps":
            time.sleep(FLAP_S)
            cluster.hosts.reconnect(SECOND)
            seen = len(run.events())
            waited = run.wait(
                "anything after the flap",
                lambda: cluster.dead_nodes() > dead or len(run.events()) > seen,
            )
            told += f" for {FLAP_S:.0f} s"
            if cluster.dead_nodes() > dead:
                told += f"; taken for dead {waited:.0f} s after that"
                cluster.hosts.end_processes(SECOND)
                cluster.start_node(SECOND)
            told += f"; next step {run.wait_for_another_event():.0f} s later"
        else:
            noticed = run.wait("Ray misses the host", lambda: cluster.dead_nodes() > dead)
            told += f"; missed by Ray after {noticed:.0f} s"
            cluster.hosts.end_processes(SECOND)
            if act == "returns":
                cluster.hosts.reconnect(SECOND)
            cluster.start_node(SECOND if act == "returns" else SPARE)
            told += f"; going on {run.wait_for_another_event():.0f} s later"
    run.end()
    return Outcome(time.monotonic() - run.started, told, run.weights())


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """A word on two sets of weights; raises if they differ in a single bit."""
    if not ours or ours.keys() != theirs.keys():
        raise ActFailed(f"other models: {sorted(ours)[:2]} and {sorted(theirs)[:2]}")
    for name, array in ours.items():
        if array.tobytes() != theirs[name].tobytes():
            raise ActFailed(f"other weights: {name} by {abs(array - theirs[name]).max():.1e}")
    return f"the same {len(ours)} arrays, bit for bit"


def make_dataset(scratch: Path) -> Path:
    """Frame pairs of a few pixels, built in a process of its own."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from training_fakes import TinyPairs\n"
        "class HostPairs(TinyPairs):\n"
        "    def _split_generators(self, dl_manager):\n"
        "        return {'train': self._generate_examples(range(64)),\n"
        "                'validation': self._generate_examples(range(64, 72))}\n"
        "builder = HostPairs(data_dir=sys.argv[2]); builder.download_and_prepare()\n"
        "print(builder.data_path)"
    )
    command = [sys.executable, "-c", code, str(ROOT / "tests" / "training"), str(scratch / "data")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"The dataset could not be made:\n{done.stderr[-1500:]}")
    return Path(done.stdout.strip().splitlines()[-1])


def acts(text: str) -> tuple[str, ...]:
    """Acts that are named, after the one that they are compared with."""
    named = text.split(",")
    if unknown := set(named) - set(ACTS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(ACTS)}, got {unknown}")
    return tuple(act for act in ACTS if act in named or act == ACTS[0])


def main() -> int:
    """Plays the acts; gives the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--acts", type=acts, default=ACTS, help="of them, the first always (default: all)"
    )
    parser.add_argument("--ray-health", action="store_true", help="with Ray's own patience")
    parser.add_argument("--keep", action="store_true", help="leave the files")
    arguments = parser.parse_args()
    if not can_make_namespaces():
        print("test-cluster: expected root and leave for `ip netns add`, got none.", end=" ")
        print("Run it as root on a machine of your own, or see `pytest -m ray`.")
        return 2
    # Ended from outside it still leaves neither hosts nor processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rng = random.Random(arguments.seed)
    scratch = Path(tempfile.mkdtemp(prefix="laser-hosts-"))
    print(f"seed {arguments.seed}, files in {scratch}", flush=True)
    dataset_dir = make_dataset(scratch)
    cluster = Cluster(scratch, {} if arguments.ray_health else HEALTH)
    failed, first = False, None
    try:
        for name in (HEAD, FIRST, SECOND):
            cluster.start_node(name)
        for act in arguments.acts:
            try:
                outcome = play(cluster, dataset_dir, act, rng)
                first = first or outcome
                result = same(outcome.weights, first.weights) if outcome is not first else "trained"
                print(f"{act:<12} {outcome.seconds:5.0f} s  ok    {result}; {outcome.told}")
            except ActFailed as error:
                failed = True
                print(f"{act:<12}          FAIL  {error}")
                if first is None:  # nothing to compare with
                    break
            sys.stdout.flush()
    finally:
        cluster.hosts.remove()
        if not (arguments.keep or failed):
            import shutil

            shutil.rmtree(scratch, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
