"""The head of a Ray cluster, as `laser-jnd submit` reaches it, and what is told where it cannot."""

import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from laser_dist.errors import UserError

# Ray's own order: the first that is set is taken, also over an address that its client is given.
ADDRESS_NAMES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
# Of ray[default]. Without them Ray's client of jobs is imported all the same, and fails in use.
_NEEDED = ("aiohttp", "pydantic")
_NO_TOKEN = re.compile(r"missing|couldn't find|cannot be opened|no authentication token", re.I)


@dataclass(frozen=True)
class Head:
    """Which head is meant.

    Attributes:
      address: of its dashboard, `http://HOST:8265`, or any other address that Ray takes; None for
        the Ray that runs on this machine.
      named_by: what gave the address, for people.
    """

    address: str | None
    named_by: str

    def __str__(self) -> str:
        """For people: without a password that may be in it."""
        return f"Ray head {without_password(self.address)}" if self.address else "Ray head"


def find_head(address: str | None, environment: Mapping[str, str]) -> Head:
    """The head that an option names, or else the environment.

    Args:
      address: of the option; http:// is meant where it has no scheme.
      environment: variables of the process.
    """
    if address:
        return Head(address if "://" in address else f"http://{address}", "--address")
    for name in ADDRESS_NAMES:
        if environment.get(name):
            return Head(environment[name], name)
    return Head(None, "the Ray that runs on this machine")


def connect(head: Head) -> Any:
    """Ray's client of the jobs on a head.

    Raises:
      UserError: a package is missing, nothing answers there, it is no Ray head or one of another
        version, or it wants another token.
    """
    check_packages()
    with told_of(head):
        import ray
        from ray.job_submission import JobSubmissionClient

        # Else it tells, in between the job's lines, when a connection ends.
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)

        with _named_alone(head.address):
            client = JobSubmissionClient(head.address)
        version = str(client._server_ray_version)
    if minor(version) != minor(ray.__version__):
        raise UserError(
            str(head),
            f"Ray {minor(ray.__version__)}, as here",
            f"Ray {version}",
            f"Install the same here: pip install 'ray[default,train]=={version}'.",
        )
    return client


def check_packages() -> None:
    """Refuses to begin without what Ray's client of jobs needs.

    Raises:
      UserError: a package is missing.
    """
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                "Command submit",
                f"the package {name}",
                "none installed",
                "Install the extra: pip install 'laser-jnd[cluster]'.",
            )


@contextmanager
def told_of(head: Head) -> Iterator[None]:
    """Turns what Ray's client raises in the block into a line for the user.

    Raises:
      UserError: in place of it.
    """
    from ray.exceptions import AuthenticationError, RpcError

    try:
        yield
    except AuthenticationError as error:
        raise token_error(head, error.message, os.environ) from None
    except (RpcError, OSError) as error:  # requests' errors are OSErrors
        raise _unreached(head, error) from error
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            str(head),
            "a head's answer",
            f"{type(error).__name__}: {first_line(str(error))}",
            f"Check the address (of {head.named_by}).",
        ) from error


def token_error(head: Head, said: str, environment: Mapping[str, str]) -> UserError:
    """What to tell of a token that is missing or wrong; never the token.

    Args:
      head: that was asked.
      said: Ray's message.
      environment: variables of the process.
    """
    if environment.get("RAY_AUTH_MODE", "").lower() != "token":
        got = "RAY_AUTH_MODE is not token, so none was sent"
        next_step = "Set RAY_AUTH_MODE=token, and the cluster's token as RAY_AUTH_TOKEN_PATH."
    elif _NO_TOKEN.search(said) and "Forbidden" not in said:
        got = f"none in {token_place(environment)}"
        next_step = "Put the cluster's token into a file and name it: RAY_AUTH_TOKEN_PATH."
    else:
        got = f"the one of {token_place(environment)}, which it refuses"
        next_step = "Ask who runs the cluster for its token."
    return UserError(str(head), "its token", got, next_step)


def token_place(environment: Mapping[str, str]) -> str:
    """Where Ray looks for a token."""
    if environment.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if path := environment.get("RAY_AUTH_TOKEN_PATH"):
        return f"RAY_AUTH_TOKEN_PATH, {path}"
    return "~/.ray/auth_token"


def without_password(address: str) -> str:
    """An address without the user and the password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", address)


def minor(version: str) -> str:
    """Such as "2.60" of "2.60.1"."""
    return ".".join(version.split(".")[:2])


def first_line(text: str) -> str:
    """The first line of a message, not too long."""
    return next(
        (line.strip()[:200].rstrip(".") for line in text.splitlines() if line.strip()), "no message"
    )


def _unreached(head: Head, error: BaseException) -> UserError:
    if head.address is None:
        return UserError(
            "Command submit",
            "a cluster",
            "none named, and no Ray on this machine",
            f"Name it: --address http://HOST:8265, or {ADDRESS_NAMES[0]}.",
        )
    return UserError(
        str(head),
        "an answer",
        first_line(without_password(str(error))),
        f"Check the address (of {head.named_by}), and that the head runs and can be reached.",
    )


@contextmanager
def _named_alone(address: str | None) -> Iterator[None]:
    """Has Ray's client take this address, which variables of the environment would go before."""
    name = ADDRESS_NAMES[0]
    before = os.environ.get(name)
    if address is not None:
        os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
