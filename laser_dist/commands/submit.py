"""`laser-jnd submit`: another command, as a job on a Ray cluster.

The cluster's image has laser-jnd installed, so nothing is sent but the command. `--working-dir`
sends a folder as well: Ray unpacks it on every node, starts the job there and puts it first on
PYTHONPATH, so that code in it takes the place of the image's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands import train
from laser_dist.commands.processes import Stopped
from laser_dist.commands.quiet import environment, quiet
from laser_dist.errors import UserError

if TYPE_CHECKING:
    from laser_dist.commands.ray_head import Head

HELP = "run another command as a job on a Ray cluster"
EXAMPLE = """\
The command is checked here, then started on the cluster's head node; train takes its workers from
the whole cluster. Its log is shown as it comes, and its exit status becomes this one's. Ctrl-C ends
the showing alone: the job goes on, and is stopped by `ray job stop ID`.

Paths are the cluster's: name a --dataset and a --storage that all nodes reach. A training that was
stopped, or lost its head, is gone on with by submitting the same command again.

A cluster that asks for a token (RAY_AUTH_MODE=token) is given the one of RAY_AUTH_TOKEN, of the
file that RAY_AUTH_TOKEN_PATH names, or of ~/.ray/auth_token.

examples:
  laser-jnd submit --address http://HEAD:8265 train mj-lat --preset paper \\
      --dataset videoset_jnd/1080p --data-dir gs://mine/data --storage gs://mine/runs/first
  laser-jnd submit --no-wait train --resume gs://mine/runs/first
  laser-jnd submit --working-dir . train lat --preset tiny --dataset /data/small --storage /runs/lat
"""
JOBS = ("train", "build", "evaluate")  # what takes long enough to be one
# Of a folder that is sent, beside what its .gitignore leaves out: heavy, of no use, or secret.
EXCLUDED = (
    ".git", ".venv", "venv", "node_modules", "/runs", "/data", "/dist", "/build", "*.egg-info",
    "__pycache__", "*.pyc", ".pytest_cache", ".ruff_cache", ".hypothesis", ".env", ".env.*",
)  # fmt: skip
_PLACES = ("dataset", "data_dir", "storage", "resume", "given")  # options that take a path or a URL
MODULE = "laser_dist.commands.main"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--address",
        metavar="URL",
        help="of the head's dashboard, such as http://HEAD:8265 (default: RAY_API_SERVER_ADDRESS, "
        "or else RAY_ADDRESS, or else the Ray that runs on this machine)",
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="say how to follow the job, and end at once"
    )
    parser.add_argument(
        "--working-dir",
        type=Path,
        metavar="DIR",
        help="folder to send along, whose code takes the place of the image's; .git, .venv, runs, "
        "data and what .gitignore names stay here",
    )
    parser.add_argument(
        "--name",
        metavar="ID",
        help="of the job, not used on this cluster before (default: Ray makes one)",
    )
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="COMMAND ...",
        help=f"one of {', '.join(JOBS)}, with its own options; these come last",
    )


def run(arguments: argparse.Namespace) -> int:
    """Submits the job and follows it.

    Returns:
      Exit status: the job's, or 0 where it is not waited for.
    """
    from laser_dist.commands.ray_head import connect, find_head

    words = arguments.words[arguments.words[:1] == ["--"] :]
    notes = check(words, sent=arguments.working_dir is not None)
    if arguments.name is not None and not _NAME.fullmatch(arguments.name):
        raise UserError(
            "Option --name", "letters, digits, - _ and .", repr(arguments.name), "Choose another."
        )
    request = {
        "entrypoint": entrypoint(words, arguments.working_dir),
        "runtime_env": runtime_environment(words, arguments.working_dir),
        "submission_id": arguments.name,
    }
    head = find_head(arguments.address, os.environ)
    with quiet(None, debug=arguments.debug) as terminal:
        client = connect(head)
        address = client.get_address()
        job_id = _submit(client, head, request)
        terminal.facts(
            [
                ("job", job_id),
                ("command", request["entrypoint"]),
                ("head", f"{_shown(address)}, of {head.named_by}"),
            ]
        )
        for note in notes:
            terminal.say(f"  {note}")
        if arguments.no_wait:
            terminal.say(f"Follow it: {ray_command('logs', job_id, address)} --follow")
            terminal.say(f"Stop it:   {ray_command('stop', job_id, address)}")
            return 0
    return _follow(client, head, job_id)


def check(words: Sequence[str], *, sent: bool) -> list[str]:
    """Refuses here what the job would refuse minutes later.

    Args:
      words: a command line of `laser-jnd`, without the program's name.
      sent: whether a folder is sent along.

    Returns:
      What to tell of it.

    Raises:
      UserError: no command, one that is no job, or settings that training refuses.
      SystemExit: its options are wrong; argparse has said so.
    """
    from laser_dist.commands import main

    if not words or words[0] not in JOBS:
        raise UserError(
            "Command submit",
            f"one of {', '.join(JOBS)} after the options",
            words[0] if words else "none",
            "Run others here; see laser-jnd submit --help.",
        )
    parsed = main.parse(words)
    if parsed.command == "train" and parsed.resume is None:
        train.resolve(parsed)
    relative = relative_paths(parsed)
    nowhere = parsed.command == "train" and not (parsed.output or parsed.storage or parsed.resume)
    if nowhere:
        relative.append("--storage, which is not named")
    if not relative:
        return []
    where = "the folder sent, of which the job has a copy for a while" if sent else "its own folder"
    return [f"relative to where the job starts, {where}: {', '.join(relative)}"]


def relative_paths(parsed: argparse.Namespace) -> list[str]:
    """Paths of a command that do not say where they begin, which on a cluster is seldom meant."""
    named = dict(vars(parsed))
    if parsed.command in ("train", "evaluate") and named.get("data_dir") is not None:
        del named["dataset"]  # then it is a name
    paths = [
        str(value)
        for name, value in named.items()
        if isinstance(value, Path) or (name in _PLACES and value is not None)
    ]
    return [path for path in paths if not Path(path).is_absolute() and ":/" not in path]


def entrypoint(words: Sequence[str], working_dir: Path | None) -> str:
    """The shell command that the head runs.

    Where the folder that is sent has our code, the image need not have the program: Python finds
    the code in the folder it starts in.
    """
    own = working_dir is not None and (working_dir / "laser_dist").is_dir()
    return shlex.join([*(("python", "-m", MODULE) if own else ("laser-jnd",)), *words])


def runtime_environment(words: Sequence[str], working_dir: Path | None) -> dict[str, Any]:
    """What Ray sets up for the job and its workers: variables, and the folder that is sent.

    Args:
      words: the job's command line.
      working_dir: to send; None for none.

    Returns:
      A runtime environment of Ray's. No token and no key is in it: anyone who may see the cluster's
      dashboard can read it.

    Raises:
      UserError: no such folder.
    """
    variables = environment(uses_cloud=any("://" in word for word in words))
    if working_dir is None:
        return {"env_vars": variables}
    if not working_dir.is_dir():
        raise UserError(
            f"Option --working-dir {working_dir}", "a folder", "none", "Correct the path."
        )
    return {
        "env_vars": variables,
        "working_dir": str(working_dir.resolve()),
        "excludes": list(EXCLUDED),
    }


def ray_command(what: str, job_id: str, address: str) -> str:
    """Ray's own command about a job, as it can be typed."""
    return f"ray job {what} {job_id} --address {_shown(address)}"


def _submit(client: Any, head: Head, request: dict[str, Any]) -> str:
    from laser_dist.commands.ray_head import first_line, told_of

    with told_of(head):
        try:
            return client.submit_job(**request)
        except RuntimeError as error:
            if "already exists" in str(error):
                raise UserError(
                    "Option --name",
                    "one not used on this cluster before",
                    str(request["submission_id"]),
                    "Choose another.",
                ) from error
            raise UserError(
                f"Job on {head}",
                "one that the head takes",
                first_line(str(error)),
                "See the head's dashboard, and the size of --working-dir.",
            ) from error


def _follow(client: Any, head: Head, job_id: str) -> int:
    from laser_dist.commands.job_logs import exit_status, follow
    from laser_dist.commands.ray_head import first_line, told_of

    try:
        with told_of(head):
            details = asyncio.run(follow(client, job_id, _write))
    except Stopped as stopped:
        stop = ray_command("stop", job_id, client.get_address())
        _tell(f"job {job_id} goes on, no longer followed. Stop it: {stop}")
        return stopped.status
    status, state = exit_status(details), details.status.lower()
    if details.driver_exit_code is None and details.status == "FAILED":
        state = f"failed: {first_line(details.message or '')}"
    if status:
        _tell(f"job {job_id} {state}, exit status {status}")
    return status


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _tell(text: str) -> None:
    sys.stdout.flush()
    print(f"laser-jnd: {text}", file=sys.stderr, flush=True)


def _shown(address: str) -> str:
    from laser_dist.commands.ray_head import without_password

    return without_password(address)
