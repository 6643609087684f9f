"""MCL-JCI's labels: what viewers said of each image, and the three levels by either convention.

Levels are JPEG quality factors (QF, 1..100, higher = better). Unlike VideoSet's, the levels are
chained per viewer: each viewer's next level is found against that viewer's own level before. Who
has no second or third level is missing there. Two conventions for a source's JND1 to JND3 are in
use and do not agree:

- "viewers": of each level's samples, the quality factor at which 75 % are satisfied;
- "stairs": the stair-step model's first three quality factors below 100.

Source: Jin et al. 2016 (MCL-JCI) and the files published with it.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from laser_dist.errors import UserError
from laser_dist.jnd.label_files import LabelFault as LabelFault
from laser_dist.jnd.label_files import LabelFile as LabelFile
from laser_dist.jnd.label_files import LabelFileError as LabelFileError
from laser_dist.jnd.label_files import find_label_files, only_copy
from laser_dist.jnd.mcl_jci_layout import (
    TextName,
    mcl_jci_source_id,
    mcl_jci_source_index,
    parse_text_name,
)
from laser_dist.jnd.mcl_jci_texts import ViewerChain as ViewerChain
from laser_dist.jnd.mcl_jci_texts import format_mcl_jci_viewers as format_mcl_jci_viewers
from laser_dist.jnd.mcl_jci_texts import read_stairs, read_viewers, why_no_chain
from laser_dist.jnd.scale import NUM_LEVELS, QF
from laser_dist.jnd.sur import level_at_share

MIN_VIEWERS = 2  # of whom a level is taken; what one person saw is no group's level

Convention = Literal["viewers", "stairs"]
CONVENTIONS: tuple[Convention, Convention] = ("viewers", "stairs")


@dataclass(frozen=True)
class MclJciSource:
    """All labels of one source.

    Attributes:
      source_id: `ImageJND_SRC01` and so on.
      chains: one per viewer.
      stairs: the stair-step model's quality factors below 100, strictly descending; None where
        there is no such model.

    Raises:
      ValueError: the id is not of that form, or stairs that are not so.
    """

    source_id: str
    chains: tuple[ViewerChain, ...]
    stairs: tuple[int, ...] | None

    def __post_init__(self) -> None:
        mcl_jci_source_index(self.source_id)
        if why := why_no_chain(self.stairs or ()):
            raise ValueError(f"stairs: {why}, got {self.stairs}")

    @property
    def samples(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of JND1 to JND3: [S] the quality factors of those viewers who have that level.

        S differs from level to level, so a position identifies no viewer; `chains` does.
        """
        chains = [chain.quality_factors for chain in self.chains]
        first, second, third = (
            tuple(chain[level] for chain in chains if len(chain) > level)
            for level in range(NUM_LEVELS)
        )
        return (first, second, third)

    def levels(self, convention: Convention) -> tuple[float, float, float]:
        """JND1 to JND3, quality factors.

        Args:
          convention: "viewers", the largest quality factor at which at least 25 % of those viewers
            who have that level have noticed; or "stairs".

        Returns:
          The levels; NaN for one that fewer than two viewers have, or that is not in the stairs.

        Raises:
          ValueError: no such convention.
        """
        if convention not in CONVENTIONS:
            raise ValueError(f"convention: expected one of {CONVENTIONS}, got {convention!r}")
        if convention == "stairs":
            stairs = self.stairs or ()
            found = [float(stairs[k]) if k < len(stairs) else math.nan for k in range(NUM_LEVELS)]
        else:
            found = [
                float(level_at_share(samples, scale=QF))
                if len(samples) >= MIN_VIEWERS
                else math.nan
                for samples in self.samples
            ]
        first, second, third = found
        return (first, second, third)


@dataclass(frozen=True)
class MclJciLabels:
    """All labels of the dataset.

    Attributes:
      sources: that can be used, in ascending order of their number. Where viewers lack a level,
        the levels of the others may rise from one to the next by "viewers": of the few who have
        JND2 a quarter may have noticed before a quarter of all had JND1.
      repairs: what was mended or stands out, one readable line each: file, line, what, how mended.
      faults: the sources that cannot be used, each once, in ascending order of their number.
    """

    sources: tuple[MclJciSource, ...]
    repairs: tuple[str, ...]
    faults: tuple[LabelFault, ...]


def read_mcl_jci_labels(folder: Path) -> MclJciLabels:
    """Labels of all sources, from the texts found below a local folder.

    Args:
      folder: searched with all folders below it.

    Returns:
      As `parse_mcl_jci_labels`, which says what is mended.

    Raises:
      UserError: no such folder, or no viewers' text in it.
      LabelFileError: as `parse_mcl_jci_labels`.
    """
    files = find_label_files(folder, lambda name: parse_text_name(name) is not None)
    return parse_mcl_jci_labels(files, where=str(folder))


def parse_mcl_jci_labels(files: Sequence[LabelFile], *, where: str) -> MclJciLabels:
    """Labels of all sources, from the texts `JND_image_01.txt` and, if given, `Image_1_l_h.txt`.

    Read without complaint: white space, commas or semicolons between cells, CRLF or LF, a byte
    order mark, blank lines, any number of viewers and levels. What `read_viewers` and `read_stairs`
    mend is listed in `repairs`. A source is left out and listed in `faults` where it has stairs but
    no viewers, or a viewer's quality factors lie outside 1 to 99 or do not descend.

    Args:
      files: in any order; those of other names are passed over.
      where: the place that was searched, for messages.

    Raises:
      UserError: no viewers' text.
      LabelFileError: a file, or a cell of it, that cannot be read; two differing copies of a file.
    """
    copies: dict[TextName, list[LabelFile]] = defaultdict(list)
    for file in files:
        name = parse_text_name(file.name)
        if name is not None:
            copies[name].append(file)
    if not any(name.kind == "viewers" for name in copies):
        raise UserError(
            f"looking for labels in {where}",
            "MCL-JCI's files JND_image_01.txt and so on, in that folder or below it",
            "none of that name",
            "Put MCL-JCI's JND_samples there, or name the folder that holds them.",
        )
    repairs: list[str] = []
    chosen = {name: only_copy(copies[name], repairs) for name in sorted(copies)}
    found = [
        _read_source(
            source_index,
            chosen.get(TextName(source_index=source_index, kind="viewers")),
            chosen.get(TextName(source_index=source_index, kind="stairs")),
            repairs,
        )
        for source_index in sorted({name.source_index for name in chosen})
    ]
    return MclJciLabels(
        sources=tuple(source for source in found if isinstance(source, MclJciSource)),
        repairs=tuple(repairs),
        faults=tuple(fault for fault in found if isinstance(fault, LabelFault)),
    )


def _read_source(
    source_index: int, viewers: LabelFile | None, stairs: LabelFile | None, repairs: list[str]
) -> MclJciSource | LabelFault:
    identifier = mcl_jci_source_id(source_index)
    steps = read_stairs(stairs, repairs) if stairs is not None else None
    if viewers is None:
        missing = TextName(source_index=source_index, kind="viewers").path.name
        return LabelFault(identifier, missing, f"no {missing}")
    chains = read_viewers(viewers, identifier, repairs)
    if isinstance(chains, LabelFault):
        return chains
    return MclJciSource(identifier, chains, steps)
