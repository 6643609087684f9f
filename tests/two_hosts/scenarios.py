"""Train across hosts with separate addresses and cut one of them off: `make test-cluster`.

    python tests/two_hosts/scenarios.py [--seed N] [--scenarios returns,flaps,replaced] [--keep]

A Ray head without cores runs on one host, a node of one core on each of two others, and one worker
on each node.

- undisturbed: the reference for the other scenarios.
- returns: a host's link goes down in the middle of an epoch, at a random step. When Ray has
  declared the node dead, the host returns and joins again. The final weights are those of
  `undisturbed`, bit for bit.
- flaps: the link returns after some seconds. If Ray has declared the node dead by then, the node
  exits and is started again, as a supervisor would do. The final weights are the same.
- replaced: the host does not return, and another one joins. The final weights are the same.

The script writes `benchmarks/results/two_hosts.json` if all scenarios ran. It needs root, and
permission to create network namespaces.
"""

import argparse
import contextlib
import json
import os
import random
import secrets
import shutil
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
SCENARIOS = ("undisturbed", "returns", "flaps", "replaced")
HEAD, FIRST, SECOND, SPARE = "head", "first", "second", "spare"
STAGE, NUM_EPOCHS, STEPS = "image", 24, 16
FLAP_S = 8.0
TIMEOUT_S = 420.0
NODE_ATTEMPTS = 4
# Ray checks a node every period, and declares it dead after so many failures in a row, each after
# the timeout. Its defaults are 3000, 10000 and 5: it would take about a minute.
HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
SETTINGS = {
    "backbone.filters": 4, "backbone.latent_filters": 6, "backbone.height": 32,
    "backbone.width": 48, "head.filters": "6,8", "image.crop": "none", "image.epochs": NUM_EPOCHS,
    "jnd.crop": "none", "jnd.epochs": 2, "heads.epochs": 3, "heads.batch_size": 4,
    "cluster.num_workers": 2, "cluster.cpu_devices": 1, "synchronized_batch_norm": "true",
}  # fmt: skip


class ScenarioError(Exception):
    """Error in a scenario."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a scenario: total seconds, a line of events, weights by model and name."""

    seconds: float
    events: str
    weights: dict[str, Any]


class Cluster:
    """A Ray cluster on the hosts."""

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
        """Start Ray on a host, in several attempts: Ray gives up after 15 to 30 s."""
        log = self.scratch / f"{name}.log"
        for _ in range(NODE_ATTEMPTS):
            before = len(log.read_text(errors="replace")) if log.exists() else 0
            process = self._start_node(name, log)
            while process.poll() is None:
                if "will now block" in log.read_text(errors="replace")[before:]:
                    return
                time.sleep(0.3)
            self.hosts.kill_processes(name)  # the processes of the failed attempt
        raise ScenarioError(
            f"Ray on host {name} did not start in {NODE_ATTEMPTS} attempts, see {log}"
        )

    def _start_node(self, name: str, log: Path) -> subprocess.Popen[bytes]:
        """Start Ray once, on the head without cores, on other hosts with one core."""
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
        """Start `laser-jnd train` on the host of the head."""
        command = [
            sys.executable,
            "-m",
            "laser_dist.commands.main",
            "train",
            "lat",
            "--levels",
            "1",
        ]
        command += ["--preset", "tiny", "--dataset", str(dataset_dir), "--output", str(run_dir)]
        command += [f"--set={path}={value}" for path, value in SETTINGS.items()]
        env = {**self.env, "RAY_ADDRESS": f"{self.hosts.address(HEAD)}:{HEAD_PORT}"}
        return self.hosts.start(HEAD, command, env, run_dir.with_suffix(".log"))

    def dead_nodes(self) -> int:
        """Return how many nodes Ray has declared dead so far, from the log of the head."""
        log = self.head_temp / "session_latest" / "logs" / "gcs_server.out"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return sum("is dead because the health check failed" in line for line in lines)


class Run:
    """A training, observed through its event log."""

    def __init__(self, cluster: Cluster, dataset_dir: Path, name: str) -> None:
        self.run_dir = cluster.scratch / name / "run"
        self.run_dir.parent.mkdir()
        self.started = time.monotonic()
        self.process = cluster.train(dataset_dir, self.run_dir)

    def events(self) -> list[dict[str, Any]]:
        """Return all events so far."""
        lines: list[str] = []
        for path in sorted((self.run_dir / "logs" / "events").glob("*.jsonl")):
            text = path.read_text()
            lines += text[: text.rfind("\n") + 1].splitlines()
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):  # incomplete line of a killed worker
                found.append(json.loads(line))
        return found

    def wait(self, what: str, until: Callable[[], bool]) -> float:
        """Wait for a condition and return the seconds that it took."""
        started = time.monotonic()
        while not until():
            if self.process.poll() is not None:
                raise ScenarioError(f"the training exited before {what}: {self.last_line()}")
            if time.monotonic() - self.started > TIMEOUT_S:
                raise ScenarioError(f"{TIMEOUT_S:.0f} s passed before {what}")
            time.sleep(0.2)
        return time.monotonic() - started

    def wait_for_step(self, epoch: int, step: int) -> None:
        """Wait until a step of the first stage, or a later one, is done."""
        self.wait(
            f"epoch {epoch}, step {step}",
            lambda: any(
                event["kind"] == "step" and (event["epoch"], event["step"]) >= (epoch, step)
                for event in self.events()[-3:]
            ),
        )

    def wait_for_another_event(self) -> float:
        """Return the seconds until the chief logs another event."""
        before = len(self.events())
        return self.wait("another event", lambda: len(self.events()) > before)

    def finish(self) -> None:
        """Wait until the command exits, with status 0."""
        left = max(1.0, TIMEOUT_S - (time.monotonic() - self.started))
        try:
            status = self.process.wait(left)
        except subprocess.TimeoutExpired as error:
            raise ScenarioError(f"still running after {TIMEOUT_S:.0f} s") from error
        if status:
            raise ScenarioError(f"exit status {status}: {self.last_line()}")

    def last_line(self) -> str:
        """Return the last line that the command printed."""
        log = self.run_dir.with_suffix(".log")
        return (log.read_text(errors="replace").strip().splitlines() or ["(no output)"])[-1]

    def weights(self) -> dict[str, Any]:
        """Return the arrays of all models, as stored in the files."""
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


def play(cluster: Cluster, dataset_dir: Path, name: str, rng: random.Random) -> Outcome:
    """Run a scenario, from the command to its models."""
    epoch, step = rng.randint(3, NUM_EPOCHS // 2), rng.randint(2, STEPS - 1)
    run = Run(cluster, dataset_dir, name)
    try:
        events = "" if name == "undisturbed" else disturb(cluster, run, name, epoch, step)
        run.finish()
        return Outcome(time.monotonic() - run.started, events, run.weights())
    finally:
        run.process.terminate()  # after a failure, the next scenario needs its cores


def disturb(cluster: Cluster, run: Run, name: str, epoch: int, step: int) -> str:
    """Cut off a host at a step, and return what happened until training resumed."""
    run.wait_for_step(epoch, step)
    dead = cluster.dead_nodes()
    cluster.hosts.cut_off(SECOND)
    events = f"cut off at epoch {epoch}, step {step}"
    if name == "flaps":
        time.sleep(FLAP_S)
        cluster.hosts.reconnect(SECOND)
        seen = len(run.events())
        waited = run.wait(
            "anything after the flap",
            lambda: cluster.dead_nodes() > dead or len(run.events()) > seen,
        )
        events += f" for {FLAP_S:.0f} s"
        if cluster.dead_nodes() > dead:
            events += f"; declared dead {waited:.0f} s after that"
            cluster.hosts.kill_processes(SECOND)
            cluster.start_node(SECOND)
    else:
        noticed = run.wait("Ray declares the node dead", lambda: cluster.dead_nodes() > dead)
        events += f"; declared dead after {noticed:.0f} s"
        cluster.hosts.kill_processes(SECOND)
        if name == "returns":
            cluster.hosts.reconnect(SECOND)
        cluster.start_node(SECOND if name == "returns" else SPARE)
        events += "; joins again" if name == "returns" else "; another host joins"
    return f"{events}; next step {run.wait_for_another_event():.0f} s later"


def same(actual: dict[str, Any], expected: dict[str, Any]) -> str:
    """Compare two sets of weights bit for bit, and raise if they differ."""
    if not actual or actual.keys() != expected.keys():
        raise ScenarioError(f"different models: {sorted(actual)[:2]} and {sorted(expected)[:2]}")
    for name, array in actual.items():
        if array.tobytes() != expected[name].tobytes():
            raise ScenarioError(
                f"different weights: {name} by {abs(array - expected[name]).max():.1e}"
            )
    return f"same {len(actual)} arrays, bit for bit"


def make_dataset(scratch: Path) -> Path:
    """Build a dataset of frame pairs of a few pixels, in a separate process."""
    code = (
        "import sys; from training_fakes import TinyPairs\n"
        "class HostPairs(TinyPairs):\n"
        "    def _split_generators(self, dl_manager):\n"
        "        return {'train': self._generate_examples(range(64)),\n"
        "                'validation': self._generate_examples(range(64, 72))}\n"
        "builder = HostPairs(data_dir=sys.argv[1]); builder.download_and_prepare()\n"
        "print(builder.data_path)"
    )
    command = [sys.executable, "-c", code, str(scratch / "data")]
    path = os.pathsep.join(map(str, [ROOT / "tests" / "training", ROOT / "tests", ROOT]))
    env = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"The dataset could not be built:\n{done.stderr[-1500:]}")
    return Path(done.stdout.strip().splitlines()[-1])


def scenarios(text: str) -> tuple[str, ...]:
    """Parse names of scenarios; the undisturbed one is always first."""
    names = text.split(",")
    if unknown := set(names) - set(SCENARIOS):
        raise argparse.ArgumentTypeError(f"unknown: {unknown}; known: {', '.join(SCENARIOS)}")
    return tuple(name for name in SCENARIOS if name in names or name == SCENARIOS[0])


def main() -> int:
    """Run the scenarios and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--scenarios", type=scenarios, default=SCENARIOS, help="names, with commas (default: all)"
    )
    parser.add_argument("--ray-health", action="store_true", help="use Ray's default health checks")
    parser.add_argument("--keep", action="store_true", help="keep the files")
    arguments = parser.parse_args()
    if not can_make_namespaces():
        print("test-cluster needs root, and permission for `ip netns add`.", file=sys.stderr)
        return 2
    # Remove hosts and processes also when this script is terminated.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rng = random.Random(arguments.seed)
    scratch = Path(tempfile.mkdtemp(prefix="laser-hosts-"))
    print(f"seed {arguments.seed}, files in {scratch}", flush=True)
    dataset_dir = make_dataset(scratch)
    cluster = Cluster(scratch, {} if arguments.ray_health else HEALTH)
    rows: list[list[Any]] = []
    failed, first = False, None
    try:
        for name in (HEAD, FIRST, SECOND):
            cluster.start_node(name)
        for name in arguments.scenarios:
            try:
                outcome = play(cluster, dataset_dir, name, rng)
                first = first or outcome
                result = same(outcome.weights, first.weights) if outcome is not first else None
                rows.append([name, round(outcome.seconds), outcome.events or None, result])
                print(f"{name:<12} {outcome.seconds:5.0f} s  ok    {result}; {outcome.events}")
            except ScenarioError as error:
                failed = True
                print(f"{name:<12}          FAIL  {error}")
                if first is None:  # nothing to compare with
                    break
            sys.stdout.flush()
    finally:
        cluster.hosts.remove()
        if not (arguments.keep or failed):
            shutil.rmtree(scratch, ignore_errors=True)
    if len(rows) == len(SCENARIOS) and not arguments.ray_health:
        write(rows)
    return int(failed)


def write(rows: list[list[Any]]) -> None:
    """Write the result for the documentation."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from results import table, write_result

    caption = (
        "A Ray head without cores and two nodes of one core, one worker on each, in three network "
        "namespaces with their own addresses on one machine. The link of the second node goes down "
        "at a random step in the middle of an epoch."
    )
    write_result(
        "two_hosts",
        title="Lose a host",
        simulated=True,
        summary="After a host is cut off in the middle of an epoch, the run ends with the same "
        "arrays as the undisturbed run, bit for bit.",
        command="make test-cluster",
        tables=[table(caption, ["Scenario", "Time (s)", "Events", "Final weights"], rows)],
        notes=[
            "Here Ray checks each node every second and declares it dead after three failures of "
            "three seconds each. With Ray's default settings, a host that is cut off is declared "
            "dead after about a minute."
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
