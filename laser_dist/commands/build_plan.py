"""`laser-jnd build --dry-run`: print what a build would do and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laser_dist.errors import UserError
from laser_dist.wording import count_text, notes, size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from beam_pipelines.dataset.build_cost import Rate
    from beam_pipelines.elements import LabeledSource
    from laser_dist.commands.build_request import ResolvedBuild
    from laser_dist.commands.terminal import Terminal

_FULL_HD = (1920, 1080)


def print_plan(terminal: Terminal, resolved: ResolvedBuild) -> None:
    """Print what a build would do and cost; reads two clips and encodes nothing.

    Raises:
      UserError: nothing could be built.
    """
    from beam_pipelines.dataset.build_cost import build_cost
    from beam_pipelines.rejects import check_reject_rate
    from laser_dist.jnd.scale import QP
    from laser_dist.jnd.splits import assign_splits

    inventory, options = resolved.inventory, resolved.options
    sources = inventory.sources
    timeable = [s for s in sources if len(s.clips) > 1 and s.scale.reference in dict(s.clips)]
    if not timeable:
        raise UserError(
            f"No source in {options.manual_dir} has its reference and another encoded clip.",
            hint="Check --manual-dir.",
        )
    with terminal.progress() as show:
        show("measuring one clip")
        rate = _first_rate(timeable, resolved)
    splits = assign_splits({source.source_id: source.group_id for source in sources})
    cost = build_cost(sources, {**splits}, rate)
    shards = ", ".join(f"{count} {split}" for split, count in sorted(cost.num_shards.items()))
    lost = inventory.num_sources - len(sources)
    terminal.say(f"Plan of {resolved.folder} (nothing has been built):")
    terminal.pairs(
        [
            ("sources", f"{count_text(len(sources), 'source')}, {lost} more are lost"),
            ("clips", f"{cost.num_clips} encoded files, {size_text(cost.num_bytes)}"),
            ("measure", count_text(cost.num_measures, "clip")),
            ("encode", f"{count_text(cost.num_encodes, 'clip')}, levels without an encoded file"),
            ("rejects", notes(map(str, inventory.rejects))),
            ("repairs", notes(inventory.repairs)),
            ("rate", _rate_text(rate)),
            *([("1080p", _full_hd_text(rate))] if sources[0].scale == QP else []),
            ("work", f"{cost.cpu_s / 3600:.2g} vCPU-hours at that rate"),
            ("output", f"about {size_text(cost.output_bytes)}"),
            ("files", shards),
        ]
    )
    try:
        check_reject_rate(
            inventory.rejects, inventory.num_sources, max_rate=options.max_reject_rate
        )
    except UserError as refusal:
        terminal.say(f"The build would stop: {refusal.message}")


def _first_rate(sources: Sequence[LabeledSource], resolved: ResolvedBuild) -> Rate:
    """Measure the rate on the first source whose clips can be read."""
    from beam_pipelines.dataset.build_cost import measure_rate
    from laser_dist.video.containers import VideoError

    settings = resolved.builder.pair_settings
    for source in sources[:-1]:
        try:
            return measure_rate(source, settings)
        except VideoError:
            continue  # the build itself reports it
    return measure_rate(sources[-1], settings)


def _rate_text(rate: Rate) -> str:
    return (
        f"{rate.cpu_s:.2g} CPU s to read and measure {count_text(rate.num_frames, 'frame')} of "
        f"{rate.width}x{rate.height} (measured here, {rate.clip})"
    )


def _full_hd_text(rate: Rate) -> str:
    """Estimate the cost of such a clip at 1080p."""
    from beam_pipelines.dataset.build_cost import ENCODE, READ_AND_MEASURE

    measure, encode = (rate.cpu_s_at(*_FULL_HD, cost) for cost in (READ_AND_MEASURE, ENCODE))
    return f"{measure:.2g} CPU s to read and measure, {encode:.2g} to encode, for as many frames"
