"""A Ray head on loopback that requires a token and stops with every process it started."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from command_line import marked_processes
from ports import free_ports

RAY = str(Path(sys.executable).with_name("ray"))
PORTS = (
    "port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
    "metrics-export-port", "ray-client-server-port", "node-manager-port", "object-manager-port",
    "runtime-env-agent-port",
)  # fmt: skip


# On a busy machine, a part of the head that answers slowly has not failed.
PATIENT = {
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_health_check_initial_delay_ms": "60000",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "120",
}
# Spare worker processes, each of which imports Ray for seconds, and metrics.
UNUSED = {
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_enable_metrics_collection": "0",
}


@dataclass(frozen=True)
class RayHead:
    """A running head: the address of its dashboard, and an environment with its token."""

    address: str
    environment: dict


def plain_environment():
    """Return this environment without a cluster or a token, and with this Python's programs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


@contextmanager
def ray_head(num_cpus, num_gpus=0):
    """Start a head with these numbers of cores and GPUs, whether or not its machine has them.

    TensorFlow sees none of the GPUs.
    """
    mark = f"LASER_JND_TEST_{uuid.uuid4().hex}"
    folder = Path(tempfile.mkdtemp(prefix="jnd-"))  # the paths of sockets must be short
    try:
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        named = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        no_device = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(90, 90 + num_gpus)))}
        environment = plain_environment() | named | no_device
        of_head = {**environment, **PATIENT, **UNUSED, mark: "1"}
        with (folder / "head.log").open("wb") as log:
            head = subprocess.Popen(
                [
                    RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1",
                    "--dashboard-host=127.0.0.1",
                    f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}",
                    f"--temp-dir={folder / 'ray'}", "--object-store-memory=100000000",
                    "--disable-usage-stats", *(f"--{name}={port}" for name, port in ports.items()),
                ],
                env=of_head, cwd=folder, start_new_session=True,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        address = f"http://127.0.0.1:{ports['dashboard-port']}"
        try:
            wait_until_up(head, address, token.read_text(), folder / "head.log")
            yield RayHead(address, environment)
            assert head.poll() is None, (folder / "head.log").read_text()
        finally:
            stop(head, mark)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_up(head, address, token, log, seconds=240):
    """Wait until all parts of the head have started and it answers a request with the token."""
    request = urllib.request.Request(
        f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"}
    )
    deadline = time.monotonic() + seconds
    while True:
        if "Ray runtime started" in log.read_text(errors="replace"):
            with suppress(OSError), urllib.request.urlopen(request, timeout=10):
                return
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)


def stop(head, mark):
    """Stop the head and the processes that have inherited its mark, and nothing else."""
    with suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        head.wait(timeout=5)
    deadline = time.monotonic() + 20
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    head.wait(timeout=10)
    assert not left
