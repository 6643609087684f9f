"""Entry point of `laser-jnd`: reads the command line, runs a command and reports its errors.

Exit status: 0 success, 1 a bug, 2 an error that the user can fix, 128 + signal when stopped.
"""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any, NoReturn

from laser_dist import __version__
from laser_dist.commands import (
    build,
    crossval,
    demo,
    doctor,
    encode,
    evaluate,
    export,
    import_weights,
    ladder,
    logs,
    models,
    plan,
    predict,
    reproduce,
    settings,
    synthesize,
    train,
)
from laser_dist.commands.faults import USER_ERROR, Explanation, explain
from laser_dist.commands.processes import (
    Stopped,
    adopt_orphans,
    kill_descendants,
    stop_descendants,
    stop_on_signals,
)
from laser_dist.errors import nearest
from laser_dist.storage.temporary import temporary_folder

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "synthesize": synthesize,
    "build": build,
    "train": train,
    "evaluate": evaluate,
    "crossval": crossval,
    "reproduce": reproduce,
    "predict": predict,
    "encode": encode,
    "ladder": ladder,
    "export": export,
    "plan": plan,
    "models": models,
    "settings": settings,
    "doctor": doctor,
    "import-weights": import_weights,
}
DESCRIPTION = "Predict the coarsest quantizer at which a video clip still looks like its source."
EPILOG = "Start with: laser-jnd demo. For examples of a command: laser-jnd help COMMAND"
_PIPE_CLOSED = 141  # 128 + SIGPIPE, as shells report it

logger = logging.getLogger(__name__)


class Parser(argparse.ArgumentParser):
    """A parser that reports errors as commands do, and suggests the nearest name."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options, allow_abbrev=False)
        self.commands: dict[str, Parser] = {}
        self._words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse as argparse does, and remember the words for the hint of an error."""
        self._words = args or ()
        return super().parse_known_args(args, namespace)

    def error(self, message: str, hint: str = "") -> NoReturn:
        """Print the usage, the error and the hint, and exit with status 2."""
        self.print_usage(sys.stderr)
        message = f"{message[:1].upper()}{message[1:]}."
        explanation = Explanation(USER_ERROR, message, hint or self._nearest_option())
        self.exit(USER_ERROR, f"{explanation}\n")

    def _nearest_option(self) -> str:
        """Return a hint for the first unknown option of the command line."""
        known = self._option_string_actions
        options = (word.partition("=")[0] for word in self._words if word.startswith("--"))
        hints = (nearest(option, known) for option in options if option not in known)
        return next(filter(None, hints), "")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Report an unknown choice with the nearest one."""
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        what = str(action.metavar or "").lower() or "/".join(action.option_strings) or action.dest
        self.error(
            f'unknown {what} "{value}"; choose from {", ".join(names)}', nearest(str(value), names)
        )


def run(
    arguments: Sequence[str] | None = None,
    context: AbstractContextManager[None] | None = None,
) -> int:
    """Run the command line.

    Args:
      arguments: without the program's name; None takes those of this process.
      context: entered while the command runs.

    Returns:
      The exit status.
    """
    try:
        try:
            parsed = parse(arguments)
            verbosity = -1 if parsed.quiet else max(parsed.verbose or 0, int(parsed.debug))
            logs.prepare_environment(
                uses_cloud=any("://" in str(value) for value in vars(parsed).values()),
                verbose=verbosity > 0,
            )
            logs.set_up(verbosity=verbosity, log_file=parsed.log_file)
            with stop_on_signals(), context or contextlib.nullcontext():
                parsed.run(parsed)
        finally:
            sys.stdout.flush()  # here, where an error can still be reported; help is printed too
    except Stopped as stopped:
        _print_last("stopped")
        kill_descendants()
        _exit_at_once(stopped.status)
    except BrokenPipeError:
        _give_up_stdout()
        return _PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the last place that can report it
        return _fail(error)
    return 0


def main() -> None:
    """Run the command line of this process and exit.

    Without Python's own shutdown: libraries' C++ threads that still run during it have aborted
    processes that had done their work.
    """
    adopt_orphans()
    status = run(context=_own_temporary_files())
    stop_descendants()
    _exit_at_once(status)


@contextmanager
def _own_temporary_files() -> Iterator[None]:
    """Keep temporary files of this process and its children in one folder, and remove it.

    Libraries leave some behind, such as TensorFlow the source of each function that it has traced.
    """
    with temporary_folder() as folder:
        # Ray would look there for a cluster that runs on this machine already.
        os.environ.setdefault("RAY_TMPDIR", tempfile.gettempdir())
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        try:
            yield
        finally:
            stop_descendants()  # which may still write there


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; what a pipeline does not know is left to Beam (`beam_options`)."""
    parser = make_parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown and not (parsed.command == "build" or getattr(parsed, "runner", None)):
        parser.commands[parsed.command].error(f"unknown arguments: {' '.join(unknown)}")
    parsed.beam_flags = unknown
    return parsed


def make_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser("laser-jnd", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "--version",
        action="version",
        version=f"laser-jnd {__version__}",
        help="show the version and exit",
    )
    logs.add_arguments(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=f"{module.HELP[0].upper()}{module.HELP[1:]}.",
            epilog=module.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        logs.add_arguments(command, default=argparse.SUPPRESS)  # the program's own stay
        command.set_defaults(run=module.run, command=name)
        parser.commands[name] = command
    helper = commands.add_parser("help", help="show the help of a command")
    helper.add_argument("topic", nargs="?", choices=tuple(COMMANDS), metavar="COMMAND")
    helper.set_defaults(
        command="help",
        run=lambda parsed: parser.commands.get(parsed.topic, parser).print_help(),
    )
    parser.commands["help"] = helper
    return parser


def _fail(error: Exception) -> int:
    explanation = explain(error)
    logger.debug("Traceback:", exc_info=error)  # shown with -v and --debug
    _print_last(str(explanation))
    stop_descendants()
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_stdout()
    return explanation.status


def _print_last(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening any more
        print(text, file=sys.stderr, flush=True)


def _exit_at_once(status: int) -> None:
    """Exit without waiting for the libraries' threads, which wait for workers that are gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def _give_up_stdout() -> None:
    """Point standard output to where Python's own last flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


if __name__ == "__main__":
    main()
