"""`laser-jnd encode --runner`: encode clips with Apache Beam, long ones in segments."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from laser_dist.commands.beam_options import runner_options
from laser_dist.commands.clips import open_model
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError
from laser_dist.wording import count_text

if TYPE_CHECKING:
    from laser_dist.encoding.encode import Request
    from laser_dist.encoding.folder import Job

logger = logging.getLogger(__name__)


def run_job(
    arguments: argparse.Namespace, jobs: Sequence[Job], request: Request
) -> list[dict[str, Any]]:
    """Encode clips with a Beam runner.

    Args:
      arguments: of `laser-jnd encode`, with a runner.
      jobs: the clips, at least one.
      request: what is asked for.

    Returns:
      The document of each clip, in order.

    Raises:
      UserError: `--workers` is given, the runner does not take its options or cannot reach an
        input or the output, or the job fails.
    """
    from beam_pipelines.encoding import EncodingPlan, encode_to_files
    from laser_dist.storage import is_url
    from laser_dist.storage.local_copies import naming_locations

    if arguments.workers is not None:
        raise UserError(
            "--workers cannot be used with --runner.", hint="Use the options of the runner."
        )
    local = next((job.source for job in jobs if not is_url(job.source)), jobs[0].source)
    options = runner_options(
        "encode",
        runner=arguments.runner,
        workers=None,
        flags=arguments.beam_flags,
        inputs={"CLIP": local, "--model": arguments.model},
        output=("--output", arguments.output),
    )
    plan = EncodingPlan(
        jobs=tuple(jobs),
        output=arguments.output,
        load=partial(open_model, arguments.model),
        request=request,
    )
    terminal = Terminal()
    with terminal.progress() as show, naming_locations(arguments.model):
        show(f"encoding {count_text(len(jobs), 'clip')}")
        return encode_to_files(plan, options, partial(logger.info, "  Running as %s"))
