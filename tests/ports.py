"""Ports for test servers."""

import random
import socket
from contextlib import ExitStack

# Below the ports that systems assign to connections: nobody else gets one of these by chance
# between its choice and its use.
_RANGE = range(20_000, 32_000)


def free_ports(count):
    """Return different ports on loopback that nobody listens on."""
    ports = []
    candidates = random.SystemRandom().sample(_RANGE, len(_RANGE))
    with ExitStack() as stack:
        while len(ports) < count:
            port = candidates.pop()
            candidate = stack.enter_context(socket.socket())
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
    return ports
