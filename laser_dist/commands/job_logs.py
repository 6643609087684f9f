"""Follows a job on a cluster: its log as it comes, whatever the connection does, and its end."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from laser_dist.errors import UserError

SECONDS_OF_SILENCE = 60.0  # after which the connection is made anew, should it be a dead one
SECONDS_BETWEEN_TRIES = 2.0
SECONDS_OF_PATIENCE = 600.0  # with a head that cannot be reached
SIGNAL_BASE = 128


class Jobs(Protocol):
    """What following needs of `ray.job_submission.JobSubmissionClient`."""

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """The log from its beginning, in pieces, until the job ends."""
        ...

    def get_job_logs(self, job_id: str) -> str:
        """The whole log so far."""
        ...

    def get_job_info(self, job_id: str) -> Any:
        """`JobDetails`."""
        ...


@dataclass(frozen=True)
class Following:
    """How patiently a job is followed.

    Attributes:
      silence: seconds without a line after which the connection is made anew.
      pause: seconds between two tries.
      patience: seconds without any answer after which it is given up.
    """

    silence: float = SECONDS_OF_SILENCE
    pause: float = SECONDS_BETWEEN_TRIES
    patience: float = SECONDS_OF_PATIENCE


@dataclass
class _Log:
    """What of a log has been written; each connection begins with its first character again."""

    write: Callable[[str], None]
    written: int = 0

    async def tail(self, pieces: AsyncIterator[str], silence: float) -> None:
        """Writes what is new of a stream until it ends.

        Raises:
          TimeoutError: no piece came for `silence` seconds.
        """
        clock, position = asyncio.get_running_loop().time, 0
        async with aclosing(pieces) as stream, asyncio.timeout(silence) as limit:  # type: ignore[type-var]
            async for piece in stream:
                position += len(piece)
                self._add(piece, position)
                limit.reschedule(clock() + silence)

    def complete(self, log: str) -> None:
        """Writes what is new of the whole log."""
        self._add(log, len(log))

    def _add(self, piece: str, end: int) -> None:
        """Writes what is new of a piece that ends at a position of the log."""
        if end > self.written:
            self.write(piece[-(end - self.written) :])
            self.written = end


async def follow(
    jobs: Jobs, job_id: str, write: Callable[[str], None], how: Following | None = None
) -> Any:
    """Writes a job's log as it comes, until the job has ended.

    A connection that breaks, or is silent for long, is made anew, and no part of the log is written
    twice.

    Args:
      jobs: Ray's client.
      job_id: of the job.
      write: takes pieces of the log.
      how: patience.

    Returns:
      `JobDetails` of the job that has ended.

    Raises:
      UserError: the head was not reached for long, or knows the job no more.
    """
    import aiohttp

    how = how or Following()
    log, heard = _Log(write), time.monotonic()
    while True:
        try:
            await log.tail(jobs.tail_job_logs(job_id), how.silence)
        except (aiohttp.ClientError, OSError, RuntimeError):  # TimeoutError is an OSError
            pass  # the job's own state says whether anything is wrong
        try:
            details = jobs.get_job_info(job_id)
            heard = time.monotonic()
            if details.status.is_terminal():
                _complete(log, jobs, job_id)
                return details
        except (OSError, RuntimeError) as error:
            _check_known(error, job_id)
            if time.monotonic() - heard > how.patience:
                raise _lost(job_id, str(error)) from error
        await asyncio.sleep(how.pause)


def exit_status(details: Any) -> int:
    """A job's exit status: its command's, where it came to an end by itself.

    Args:
      details: `JobDetails` of a job that has ended.

    Returns:
      0 to 255; 128 + the signal's number where a signal ended it, and 1 where the job was stopped
      or never began.
    """
    code = details.driver_exit_code
    if code is not None:
        return SIGNAL_BASE - code if code < 0 else code
    return 0 if details.status == "SUCCEEDED" else 1


def _complete(log: _Log, jobs: Jobs, job_id: str) -> None:
    try:
        log.complete(jobs.get_job_logs(job_id))
    except (OSError, RuntimeError):
        return  # the node that has the log may be gone; the job's end is known all the same


def _check_known(error: Exception, job_id: str) -> None:
    if "status code 404" in str(error):
        raise UserError(
            f"Job {job_id}",
            "one that the head knows",
            "none",
            "The head was started anew: submit the command again, it goes on where it was.",
        ) from error


def _lost(job_id: str, error: str) -> UserError:
    return UserError(
        f"Job {job_id}",
        "a head that answers",
        error.partition("\n")[0][:200],
        f"The job may well go on; follow it again: ray job logs {job_id} --follow.",
    )
