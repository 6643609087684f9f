"""Runs `laser-jnd`: as a process, as a user does, or in this process, which is faster."""

import contextlib
import io
import logging
import os
import subprocess
import sys
import time
import uuid
import warnings
from pathlib import Path
from unittest.mock import patch

from laser_dist.commands import main

# Unbuffered, argparse itself meets a write error, and keeps silent about it.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
LASER_JND = (sys.executable, "-m", "laser_dist.commands.main")


def laser_jnd(*arguments, **options):
    """Run a command as a process, and wait until it exits."""
    return subprocess.run(
        [*LASER_JND, *map(str, arguments)],
        capture_output=True,
        text=True,
        **{"timeout": 120, **options},
    )


def laser_jnd_here(*arguments, cwd="."):
    """Run a command in this process, which has the libraries loaded, and return the same."""
    output, errors = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        contextlib.chdir(cwd),
        patch.dict(os.environ),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            status = main.run([*map(str, arguments)])
        except SystemExit as stopped:
            status = stopped.code
        finally:
            logging.captureWarnings(False)
            root.handlers[:] = handlers
            root.setLevel(level)
            for package in main.logs.PACKAGES:
                logging.getLogger(package).setLevel(logging.NOTSET)
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())


def refusal(done):
    """Return the message and the hint of a command that refused its input, and printed no more."""
    assert (done.returncode, done.stdout) == (2, ""), done
    message, *hint = done.stderr.splitlines()
    assert message.startswith("error: "), done.stderr
    assert all(line.startswith("hint: ") for line in hint), done.stderr
    assert len(hint) <= 1, done.stderr
    return " ".join([message.removeprefix("error: "), *(line[6:] for line in hint)])


def marked_processes(mark):
    """Return the ids of running processes that inherited an environment variable of that name."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            inherited = f"{mark}=".encode() in (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # no process, another user's, or gone meanwhile
            continue
        if inherited and state != "Z":
            found.add(int(folder.name))
    return found


class Started:
    """A running command, and every process that it starts."""

    def __init__(self, *arguments, cwd):
        self._mark = f"LASER_JND_TEST_{uuid.uuid4().hex}"
        self.process = subprocess.Popen(
            [*LASER_JND, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, self._mark: "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self):
        """Return the ids of its running processes."""
        return marked_processes(self._mark)

    def wait_for(self, condition, seconds):
        """Wait until `condition()` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "the condition did not hold in time"
            time.sleep(0.05)
