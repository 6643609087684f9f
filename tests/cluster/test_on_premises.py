"""`start.sh`, with a real Ray head on loopback."""

import os
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "on_premises" / "start.sh"


def run(
    command: list[str], home: Path, timeout_s: float = 30, **more: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "RAY_" not in name}
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment |= {"HOME": str(home), "PATH": path, "NODE_ADDRESS": "127.0.0.1", **more}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=timeout_s
    )


def start(home: Path, *arguments: str, timeout_s: float = 30, **more: str):
    return run([str(SCRIPT), *arguments], home, timeout_s, **more)


@pytest.mark.parametrize("arguments", [(), ("worker",), ("stop", "now"), ("begin",)])
def test_wrong_arguments_print_the_usage(tmp_path, arguments):
    done = start(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


def test_a_worker_needs_a_token(tmp_path):
    done = start(tmp_path, "worker", "127.0.0.1")
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert error == f"error: {tmp_path}/.ray/auth_token has no token."
    assert hint.startswith("hint: On the head, run `scp -p ~/.ray/auth_token ")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_token_file_is_no_token(tmp_path):
    (tmp_path / "token").touch()
    path = str(tmp_path / "token")
    for role in (["worker", "127.0.0.1"], ["head"]):
        done = start(tmp_path, *role, RAY_AUTH_TOKEN_PATH=path)
        assert done.returncode == 2
        assert path in done.stderr


def test_stop_without_a_node_succeeds(tmp_path):
    done = start(tmp_path, "stop")
    assert (done.returncode, done.stderr) == (0, "")
    assert "No node of start.sh is running" in done.stdout


def test_stop_does_not_end_another_program_with_the_same_process_id(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "laser-jnd.pid").write_text(str(other.pid))
        assert "No node of start.sh is running" in start(tmp_path, "stop").stdout
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
      home: home directory, whose `.ray` has the token.
      port: port of the cluster.
      jobs: URL of the job server.
      output: what the script printed.
    """

    home: Path
    port: int
    jobs: str
    output: str


def free_ports(count: int) -> list[int]:
    """Return free ports below 10000: Ray uses those above for its workers."""
    found = []
    for port in range(9100 + os.getpid() % 400, 9999):
        with socket.socket() as listener:
            if listener.connect_ex(("127.0.0.1", port)) and len(found) < count:
                found.append(port)
    return found


def processes_naming(folder: Path) -> list[str]:
    """Return the command lines of all processes that name a directory."""
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in listing.stdout.splitlines() if str(folder) in line]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    port, dashboard, client, agent = free_ports(4)
    # The names of Ray's sockets are too long for pytest's temporary directory.
    with tempfile.TemporaryDirectory(prefix="rs", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        options = {
            "--num-cpus": "1",
            "--num-gpus": "0",
            "--object-store-memory": "100000000",
            "--ray-client-server-port": str(client),
            "--dashboard-agent-listen-port": str(agent),
        }
        ports = {"RAY_PORT": str(port), "DASHBOARD_PORT": str(dashboard), "TMPDIR": folder}
        words = [word for option in options.items() for word in option]
        done = start(home, "head", *words, timeout_s=240, **ports)
        for _ in range(2):  # Ray's startup timeout of 30 s is too short on a busy machine
            if "timed out during startup" in done.stderr:
                done = start(home, "head", *words, timeout_s=240, **ports)
        assert done.returncode == 0, done.stderr
        try:
            yield Head(home, port, f"http://127.0.0.1:{dashboard}", done.stdout)
        finally:
            stopped = start(home, "stop", timeout_s=120)
        assert (stopped.returncode, stopped.stdout) == (0, "Stopped.\n"), stopped.stderr
        assert processes_naming(home) == []


@pytest.mark.ray
@pytest.mark.alone
@pytest.mark.slow
def test_the_head_creates_a_token_that_only_its_user_can_read(head):
    token = head.home / ".ray" / "auth_token"
    assert len(token.read_text()) == 64
    assert token.stat().st_mode & 0o077 == 0
    assert token.read_text() not in head.output
    assert f"start.sh worker 127.0.0.1:{head.port}" in head.output
    assert head.jobs in head.output


@pytest.mark.ray
@pytest.mark.alone
@pytest.mark.slow
def test_sockets_and_logs_are_in_a_folder_that_only_the_user_can_enter(head):
    (sessions,) = head.home.glob("laser-jnd-??????")
    assert sessions.stat().st_mode & 0o777 == 0o700
    assert len(list(sessions.glob("r/session_2*/sockets/*"))) > 1


@pytest.mark.ray
@pytest.mark.alone
@pytest.mark.slow
def test_the_head_accepts_its_token_and_no_other(head):
    status = ["ray", "status", "--address", f"127.0.0.1:{head.port}"]
    jobs = ["ray", "job", "list", "--address", head.jobs]
    for command in (status, jobs):
        done = run(command, head.home, 120, RAY_AUTH_MODE="token")
        assert done.returncode == 0, done.stderr
        done = run(command, head.home, 120, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="another")
        assert done.returncode != 0
        assert "AuthenticationError" in done.stderr


@pytest.mark.ray
@pytest.mark.alone
@pytest.mark.slow
def test_the_head_refuses_requests_without_a_token(head):
    with pytest.raises(urllib.error.HTTPError) as refusal, request_without_token(head):
        pass
    assert refusal.value.code == 401
    refusal.value.close()


def request_without_token(head: Head):
    return urllib.request.urlopen(f"{head.jobs}/api/jobs/", timeout=30)


@pytest.mark.ray
@pytest.mark.alone
@pytest.mark.slow
def test_a_second_node_of_a_user_is_refused(head):
    done = start(head.home, "head")
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: You already run a node on this machine, process ")
    assert hint.endswith("start.sh stop`.")
