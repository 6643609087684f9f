"""Entry point of `laser-jnd`: reads the command line, runs a command, answers for its errors.

Exit status: 0 success, 1 a fault of ours, 2 something the user can mend, 128 + signal when stopped.
"""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from laser_dist import __version__
from laser_dist.commands import (
    build,
    demo,
    evaluate,
    import_weights,
    models,
    predict,
    submit,
    synthesize,
    train,
)
from laser_dist.commands.faults import BUG, explain
from laser_dist.commands.processes import Stopped, end_descendants, stop_on_signals
from laser_dist.commands.quiet import prepare_environment

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "synthesize": synthesize,
    "build": build,
    "train": train,
    "submit": submit,
    "evaluate": evaluate,
    "predict": predict,
    "models": models,
    "import-weights": import_weights,
}
DESCRIPTION = "Predict at which quantizer a video clip stops looking like its source (JND1..3)."
EPILOG = "Begin with: laser-jnd demo. Examples of each command: laser-jnd COMMAND --help"
_PIPE_CLOSED = 141  # 128 + SIGPIPE, as the shell reports it of other programs


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: without the program's name; None takes the process's own.

    Returns:
      The exit status.
    """
    debug, status = False, 0
    try:
        try:
            parsed = parse(arguments)
            debug = parsed.debug
            prepare_environment(uses_cloud=any("://" in str(v) for v in vars(parsed).values()))
            with stop_on_signals():
                status = parsed.run(parsed) or 0  # a job's, of `submit`; the others return nothing
        finally:
            sys.stdout.flush()  # here, where an error can still be reported; help is printed too
    except Stopped as stopped:
        _print_last("stopped")
        _leave_at_once(stopped.status)
    except BrokenPipeError:
        _give_up_stdout()
        return _PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the last place that can turn it into a line
        return _fail(error, debug)
    return status


def main() -> None:
    """Runs this process's command line and ends the process.

    At once, without Python's own end: libraries' C++ threads, still running then, have aborted a
    process that had done its work.
    """
    status = run()
    end_descendants()
    _leave_at_once(status)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as values; what `build` does not know is left to Beam (`beam_flags`)."""
    parser = make_parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown and parsed.command != "build":
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    parsed.beam_flags = unknown
    return parsed


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser("laser-jnd", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"laser-jnd {__version__}")
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
        command.add_argument(
            "--debug", action="store_true", help="show tracebacks and the libraries' messages"
        )
        command.set_defaults(run=module.run, command=name)
    return parser


def _fail(error: Exception, debug: bool) -> int:
    explanation = explain(error)
    if debug:
        traceback.print_exception(error)
    notes = getattr(error, "__notes__", []) if explanation.status == BUG else []
    _print_last("\n".join([str(explanation), *notes]))
    end_descendants()
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_stdout()
    return explanation.status


def _print_last(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening any more
        print(text, file=sys.stderr, flush=True)


def _leave_at_once(status: int) -> None:
    """Ends without waiting for the libraries' threads, which wait for workers that are gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def _give_up_stdout() -> None:
    """Gives standard output a place where Python's own last flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


if __name__ == "__main__":
    main()
