"""Hosts that are network namespaces of this machine, joined by a bridge.

Each host has its own address and link. Cutting the link is like pulling a cable: packets are lost,
and no process is notified.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

NETWORK = "10.207.0"
HEAD_PORT = 6379


def can_make_namespaces() -> bool:
    """Return whether network namespaces can be created; root in a container may not be allowed."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"laser-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True)
    if tried.returncode == 0:
        _ip("netns", "del", name)
    return tried.returncode == 0


class Hosts:
    """Namespaces on a bridge in its own namespace; the machine's network is unchanged."""

    def __init__(self, names: Sequence[str]) -> None:
        """Create the hosts.

        Args:
          names: names of the hosts; host k, from 1, has the address 10.207.0.k.
        """
        self._tag = f"laser{os.getpid()}"
        self._names = list(names)
        self._switch = f"{self._tag}-switch"
        self._made: list[str] = []
        try:
            self._add(self._switch)
            self._in(self._switch, "link", "add", "bridge", "type", "bridge")
            self._in(self._switch, "link", "set", "bridge", "up")
            for number, name in enumerate(self._names, start=1):
                self._plug_in(name, number)
        except BaseException:
            self.remove()
            raise

    def address(self, name: str) -> str:
        """Return the address of a host."""
        return f"{NETWORK}.{self._names.index(name) + 1}"

    def start(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a command on a host and append its output to a file."""
        with log.open("ab") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._space(name), *command],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def cut_off(self, name: str) -> None:
        """Cut the host's link in both directions; its processes continue."""
        self._in(self._switch, "link", "set", self._port(name), "down")

    def reconnect(self, name: str) -> None:
        """Restore the link."""
        self._in(self._switch, "link", "set", self._port(name), "up")

    def kill_processes(self, name: str) -> None:
        """Kill all processes of a host, as a power cut would."""
        for _ in range(20):
            pids = _ip("netns", "pids", self._space(name)).split()
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.2)

    def remove(self) -> None:
        """Kill all processes on the hosts, then remove the hosts."""
        for space in reversed(self._made):
            if space != self._switch:
                self.kill_processes(space.removeprefix(f"{self._tag}-"))
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
        self._made.clear()

    def _plug_in(self, name: str, number: int) -> None:
        space, port = self._space(name), self._port(name)
        self._add(space)
        # Both ends are created in their namespaces, so the machine's own namespace is unchanged.
        self._in(self._switch, "link", "add", port, "type", "veth", "peer", "eth0", "netns", space)
        self._in(self._switch, "link", "set", port, "master", "bridge", "up")
        self._in(space, "address", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            self._in(space, "link", "set", device, "up")

    def _add(self, space: str) -> None:
        _ip("netns", "add", space)
        self._made.append(space)

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _port(self, name: str) -> str:
        return f"to-{name}"

    def _in(self, space: str, *arguments: str) -> None:
        _ip("-netns", space, *arguments)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
