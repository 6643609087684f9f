"""Pipeline that makes a synthetic VideoSet or MCL-JCI from footage.

    footage ─ draw takes ─▶ film ─▶ code at each quantizer ─▶ judge ─▶ coded files, labels, marker

Everything is real but the viewers, who are simulated. The folder has the layout of the dataset it
stands in for, so the builder that reads one reads the other.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines.folders import complete_folder
from beam_pipelines.rejects import SOURCE, Reject
from beam_pipelines.rejects_table import (
    REJECTS,
    REJECTS_FILE,
    WriteRejects,
    clear_failures,
)
from beam_pipelines.runner import run_to_end
from beam_pipelines.synthetic.footage import Footage, load_photo, photo_size
from laser_dist.errors import UserError
from laser_dist.simulation import MARKER_NAME
from laser_dist.simulation.camera import Shot, draw_shot, film
from laser_dist.simulation.excerpt import Excerpt, draw_excerpt, read_excerpt
from laser_dist.video.containers import MIN_SIZE, VideoError
from laser_dist.video.frames import UInt8Array

Labels = TypeVar("Labels")
"""What the panel says of one source, in the words of its kind of dataset."""


@dataclass(frozen=True)
class Take:
    """One source to make: which footage, and which shot of it or excerpt from it."""

    source_index: int
    footage: Footage
    cut: Shot | Excerpt


class Settings(Protocol[Labels]):
    """What a synthetic dataset is made of, and how its kind is made: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def num_sources(self) -> int:
        """Spread evenly over the footage."""
        ...

    @property
    def width(self) -> int:
        """Of the frames, in pixels."""
        ...

    @property
    def height(self) -> int:
        """Of the frames, in pixels."""
        ...

    @property
    def num_frames(self) -> int:
        """Of each source."""
        ...

    @property
    def seed(self) -> int:
        """Of takes, viewers and their trials."""
        ...

    @property
    def viewers(self) -> str:
        """Who judged, for people to read."""
        ...

    @property
    def coder(self) -> Mapping[str, object]:
        """The coder's settings, which the fingerprint covers."""
        ...

    @property
    def provenance(self) -> Mapping[str, object]:
        """What the marker says beyond what all markers say."""
        ...

    def source_id(self, source_index: int) -> str:
        """A source's name, from its number."""
        ...

    def produce(self, take: Take, folder: Path) -> Labels:
        """Makes, codes and judges one source, and writes its files below `folder`.

        Raises:
          VideoError: the footage is damaged where the take needs it.
          OSError: `folder` cannot be written.
        """
        ...

    def write_labels(self, labels: Sequence[Labels], folder: Path) -> None:
        """Writes what the panel said of all sources, which come in any order."""
        ...

    def num_finished(self, folder: Path) -> int:
        """Number of sources finished so far in the unfinished work toward `folder`."""
        ...


def check_sources_and_size(settings: Settings, max_sources: int) -> None:
    """Raises UserError for a number of sources, size or seed that no synthetic dataset can have."""
    size = f"even sides of {MIN_SIZE} pixels or more"
    resolution = f"{settings.width}x{settings.height}"
    expect(
        1 <= settings.num_sources <= max_sources,
        "num_sources",
        f"1 to {max_sources}",
        settings.num_sources,
    )
    expect(min(settings.width, settings.height) >= MIN_SIZE, "clips", size, resolution)
    expect(settings.width % 2 == settings.height % 2 == 0, "clips", size, resolution)
    expect(settings.num_frames >= 1, "num_frames", "1 or more", settings.num_frames)
    expect(settings.seed >= 0, "seed", "0 or more", settings.seed)


def expect(holds: bool, what: str, rule: str, got: object) -> None:
    """Raises UserError where a setting does not hold to its rule."""
    if not holds:
        raise UserError(f"Setting {what} must be {rule}, not {got}.")


def draw_takes(footage: Sequence[Footage], settings: Settings) -> tuple[Take, ...]:
    """Draws every take; take i does not depend on how many there are.

    Args:
      footage: at least one; takes go round it.
      settings: of the synthetic dataset.

    Raises:
      VideoError: a photograph is damaged, a video cut short or too short for a take.
    """
    return tuple(
        _draw_take(index, footage[(index - 1) % len(footage)], settings)
        for index in range(1, settings.num_sources + 1)
    )


def _draw_take(index: int, footage: Footage, settings: Settings) -> Take:
    rng = np.random.default_rng([settings.seed, 2, index])
    aspect = settings.width / settings.height
    if footage.is_video:
        return Take(index, footage, draw_excerpt(rng, footage.path, aspect, settings.num_frames))
    width, height = photo_size(footage.path)
    return Take(index, footage, draw_shot(rng, width, height, aspect))


def take_frames(take: Take, settings: Settings) -> UInt8Array:
    """Films or cuts one take: [T, height, width, 3] uint8 RGB.

    Raises:
      VideoError: the footage is damaged where the take needs it.
    """
    size = {"width": settings.width, "height": settings.height}
    if isinstance(take.cut, Excerpt):
        return read_excerpt(take.footage.path, take.cut, num_frames=settings.num_frames, **size)
    photo = load_photo(take.footage.path)
    return film(photo, take.cut, num_frames=settings.num_frames, **size)


class ProduceSources(beam.DoFn, Generic[Labels]):
    """`Settings.produce` for every take; what cannot be made goes to the output `rejects`."""

    def __init__(self, settings: Settings[Labels], folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._made = beam.metrics.Metrics.counter("sources", "made")
        self._rejected = beam.metrics.Metrics.counter("sources", "rejected")

    def process(
        self, take: Take
    ) -> Iterable[Labels | beam.pvalue.TaggedOutput[Literal["rejects"], Reject]]:
        """Yields the source's labels, or one reject."""
        try:
            labels = self._settings.produce(take, self._folder)
        except VideoError as error:
            self._rejected.inc()
            where = f"{self._settings.source_id(take.source_index)} from {take.footage.path}"
            reject = Reject(what=SOURCE, where=where, stage="make", why=str(error))
            yield beam.pvalue.TaggedOutput(REJECTS, reject)
            return
        self._made.inc()
        yield labels


class WriteLabels(beam.DoFn, Generic[Labels]):
    """Writes the labels of all sources at once, then the marker."""

    def __init__(self, settings: Settings[Labels], folder: Path, marker: dict[str, object]) -> None:
        self._settings = settings
        self._folder = folder
        self._marker = marker

    def process(self, labels: Sequence[Labels]) -> Iterable[int]:
        """Yields the number of sources written."""
        self._settings.write_labels(labels, self._folder)
        (self._folder / MARKER_NAME).write_text(marker_text(self._marker))
        yield len(labels)


def synthesize(
    footage: Sequence[Footage],
    settings: Settings,
    folder: Path,
    options: PipelineOptions,
    *,
    left_out: Sequence[Reject] = (),
) -> None:
    """Makes the whole synthetic dataset; `folder` is complete or absent.

    The same footage and settings give the same files, whatever the number of workers.

    Args:
      footage: photographs and videos, at least one.
      settings: of the synthetic dataset.
      folder: to make; its parent must be writable. A synthetic dataset in it is
        replaced.
      options: of the Beam runner.
      left_out: files that were no footage, for the table of rejects.

    Raises:
      UserError: the folder cannot be written or holds something else, a video is too short, or
        more than 5 % of the clips cannot be made; a table of the rejects then lies beside it.
    """
    takes = draw_takes(footage, settings)
    marker = marker_of(takes, settings)
    refusal = folder.with_name(f"{folder.name}-{REJECTS_FILE}")
    with (
        complete_folder(folder, marker=MARKER_NAME) as unfinished,
        clear_failures(refusal, folder),
    ):
        pipeline = beam.Pipeline(options=options)
        sources = (
            pipeline
            | "Takes" >> beam.Create(takes)
            | "Spread" >> beam.Reshuffle()
            | "FilmEncodeJudge"
            >> beam.ParDo(ProduceSources(settings, unfinished)).with_outputs(REJECTS, main="made")
        )
        _ = (
            sources[REJECTS]
            | "GatherRejects" >> beam.combiners.ToList()
            | "WriteRejects"
            >> beam.ParDo(WriteRejects(unfinished / REJECTS_FILE, refusal, left_out, len(takes)))
        )
        _ = (
            sources["made"]
            | "GatherLabels" >> beam.combiners.ToList()
            | "WriteLabels" >> beam.ParDo(WriteLabels(settings, unfinished, marker))
        )
        run_to_end(pipeline)


def marker_of(takes: Sequence[Take], settings: Settings) -> dict[str, object]:
    """What `SIMULATED.json` says: that viewers are simulated, how, and what belongs together."""
    return {
        "simulated": True,
        "simulated_viewers": settings.viewers,
        "fingerprint": fingerprint(takes, settings),
        **settings.provenance,
        "settings": asdict(settings),
        "groups": {settings.source_id(take.source_index): take.footage.group_id for take in takes},
    }


def marker_text(marker: dict[str, object]) -> str:
    """The marker as JSON for people, lists of plain numbers in one line each."""
    text = json.dumps(marker, indent=2)
    # Within JSON's strings there is no bare line break, so only lists can match.
    return re.sub(r"\[\n([^][{}\"]*)\n *\]", lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


def fingerprint(takes: Sequence[Take], settings: Settings) -> str:
    """Hash of settings, cuts and the footage's names and sizes in bytes, 16 hex digits."""
    sizes = {take.footage.path: take.footage.path.stat().st_size for take in takes}
    parts = [
        asdict(settings),
        [
            (take.source_index, take.footage.group_id, sizes[take.footage.path], asdict(take.cut))
            for take in takes
        ],
        settings.coder,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
