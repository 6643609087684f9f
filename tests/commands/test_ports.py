"""With default settings, no command opens a port to the network, and Ray's ask for a token."""

import platform
import re
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from command_line import laser_jnd, laser_jnd_here
from listening import SECONDS_BETWEEN_LOOKS, command_line, is_loopback, listening, tree
from ray_head import PATIENT, plain_environment

SETTINGS = (
    "backbone.filters=4", "backbone.latent_filters=6", "head.filters=4,4", "image.epochs=1",
    "jnd.epochs=1", "heads.epochs=1", "cluster.cpu_devices=1", "cluster.cpus_per_worker=2",
)  # fmt: skip
# The demo, at a tiny size.
DEMO = f"""
import dataclasses, sys
from laser_dist.commands import demo, main, synthesize
from laser_dist.training import config
demo.QPS = (22, 38)
kind = synthesize.KINDS["videoset"]
synthesize.KINDS["videoset"] = dataclasses.replace(kind, num_sources=15, num_frames=2)
tiny = config.tiny
config.tiny = lambda variant: config.override(tiny(variant), {SETTINGS})
sys.argv[1:] = ["demo", "--output", "demo"]
main.main()
"""
# One method of each kind of server of Ray: all nodes, a node's and a worker's state.
METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
)

pytestmark = [
    pytest.mark.attack("Network ports"),
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.beam,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def follow(program, cwd, look):
    """Run a program; return all that it ever listened on. Call `look` with each sample."""
    seen = {}
    with subprocess.Popen(
        program,
        cwd=cwd,
        env=plain_environment() | PATIENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while process.poll() is None:
            found = listening(process.pid)
            seen |= found
            look(process.pid, found)
            time.sleep(SECONDS_BETWEEN_LOOKS)
        output = process.stdout.read()
    assert process.returncode == 0, output
    return seen


def answer(port, method, metadata=()):
    """Return how a gRPC server answers an empty request."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=5, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def http_status(port):
    """Return the status of an answer to an HTTP request, None if it is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            match = re.match(rb"HTTP/1\.\d (\d+)", connection.recv(100))
    except OSError:  # it does not answer, or has been closed since
        return None
    return match and int(match[1])


class Intruder:
    """Another user of this machine: no token, all ports; looks once, while a worker trains."""

    def __init__(self, folder):
        self.folder = folder
        self.without_token, self.with_token, self.http, self.modes = {}, {}, {}, {}
        self.second = None
        self.programs = []

    def look(self, pid, found):
        names = found.values()
        workers = [each for each in tree(pid) if "TrainWorker" in " ".join(command_line(each))]
        if self.modes or not workers or not {"gcs_server", "raylet"} <= set(names):
            return
        self.programs = [" ".join(command_line(each)) for each in tree(pid)]
        environment = workers[0].environ()
        token = Path(environment["RAY_AUTH_TOKEN_PATH"])
        session = Path(environment["RAY_TMPDIR"])
        self.modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (token, token.parent)}
        self.modes["session"] = stat.S_IMODE(session.stat().st_mode)
        self.session = session
        self.pid = pid
        self.second = laser_jnd("train", "--resume", "demo/run", cwd=self.folder)
        bearer = (("authorization", f"Bearer {token.read_text()}"),)
        for port in sorted({port for _, port in found}):
            self.http[port] = http_status(port)
            for method in METHODS if self.http[port] is None else ():
                self.without_token[port, method] = answer(port, method)
                self.with_token[port, method] = answer(port, method, bearer)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """Run the demo; return what it listened on, and what an intruder found meanwhile."""
    folder = tmp_path_factory.mktemp("ports")
    intruder = Intruder(folder)
    seen = follow([sys.executable, "-c", DEMO], folder, intruder.look)
    return folder, seen, intruder


def test_every_port_of_the_demo_is_on_the_loopback_interface(followed):
    _, seen, _ = followed
    assert seen  # of Ray: the search finds ports
    assert [each for each in seen.items() if not is_loopback(each[0][0])] == []


def train(run, *options):
    """Return the words that train a small predictor on the demo's dataset."""
    settings = (part for setting in SETTINGS for part in ("--set", setting))
    return (
        "train", "lat", "--levels", "1", "--preset", "tiny", "--dataset", "demo/data",
        "--output", run, *settings, *options,
    )  # fmt: skip


def test_a_client_without_the_token_is_refused_by_every_port_of_ray(followed):
    _, _, intruder = followed
    assert "OK" not in intruder.without_token.values()
    assert "OK" in intruder.with_token.values()  # the request itself is valid
    for method in METHODS:
        assert "UNAUTHENTICATED" in {
            intruder.without_token[each] for each in intruder.without_token if each[1] == method
        }
    assert {401} <= {*intruder.http.values()} <= {401, 403, 404, None}


def test_a_second_training_of_the_run_is_refused(followed):
    _, _, intruder = followed
    text = refusal_of(intruder.second)
    owner = f"process {intruder.pid} on host {platform.node()}"
    assert re.match(rf"demo/run is being trained by {owner} since \d{{4}}-\d\d-\d\d \d\d:", text)


def test_ray_starts_no_process_that_only_a_cluster_needs(followed):
    _, _, intruder = followed
    assert any("raylet" in each for each in intruder.programs)
    assert [each for each in intruder.programs if re.search(r"monitor\.py", each)] == []


def test_only_the_user_can_enter_the_session_which_is_removed(followed):
    _, _, intruder = followed
    folder = intruder.session
    assert intruder.modes == {"token": 0o600, folder.name: 0o700, "session": 0o700}
    assert not folder.exists()


def test_a_training_without_a_token_is_refused(followed, monkeypatch):
    folder, _, _ = followed
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    text = refusal_of(laser_jnd_here(*train("other"), cwd=folder))
    assert text.startswith("RAY_AUTH_MODE=disabled would let every user of this machine run")


def refusal_of(done):
    assert done.returncode == 2, done
    return done.stderr.partition("error: ")[2]
