"""Estimates the cost of a build from counts and from one measured clip; nothing is encoded.

The rate of this machine comes from reading and measuring one clip of the dataset. Its growth with
the size of the clip, and the cost of encoding, are constants measured by `benchmarks/build.py`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from beam_pipelines.dataset.codecs import read_clip
from beam_pipelines.dataset.frame_pairs import Quantizers
from beam_pipelines.dataset.measured_files import encode_png
from beam_pipelines.dataset.shards import num_shards
from beam_pipelines.elements import LabeledSource, PairSettings
from laser_dist.jnd.scale import QP
from laser_dist.video.quality import measure_quality


@dataclass(frozen=True)
class LinearCost:
    """CPU seconds per frame: `base` plus `per_megapixel` times its millions of pixels."""

    base: float
    per_megapixel: float

    def of(self, width: int, height: int) -> float:
        """Return the CPU seconds for a frame of a size."""
        return self.base + self.per_megapixel * width * height / 1e6


# Measured by `benchmarks/build.py --rates` on a 2-core x86 machine with AVX2: clips of photographs
# at 256x144 to 1920x1080, QP 22 to 42, frames compared at 640x352. Only their ratios are used.
READ_AND_MEASURE = LinearCost(base=0.0041, per_megapixel=0.0132)
READ_REFERENCE = LinearCost(base=0.0039, per_megapixel=0.0376)  # lossless streams are large
ENCODE = LinearCost(base=0.0005, per_megapixel=0.0277)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One clip of the dataset, read and measured on this machine.

    Attributes:
      clip: name of the clip.
      width: width of the clip, in pixels.
      height: height of the clip, in pixels.
      num_frames: number of frames.
      cpu_s: CPU seconds for reading and measuring it.
      frame_bytes: mean size of its frames as PNG at the model's resolution.
      num_pairs: number of frame pairs of such a clip.
    """

    clip: str
    width: int
    height: int
    num_frames: int
    cpu_s: float
    frame_bytes: float
    num_pairs: int

    @property
    def slowness(self) -> float:
        """This machine's CPU time divided by that of the machine of the constants."""
        return self.cpu_s / (self.num_frames * READ_AND_MEASURE.of(self.width, self.height))

    def cpu_s_at(self, width: int, height: int, cost: LinearCost) -> float:
        """Return the CPU seconds for a clip of any size, as long as the measured one."""
        return self.slowness * self.num_frames * cost.of(width, height)


@dataclass(frozen=True, kw_only=True)
class BuildCost:
    """Estimated cost of a build.

    Attributes:
      num_clips: number of encoded files to read.
      num_bytes: their total size, including references.
      num_encodes: number of clips to encode.
      num_measures: number of clips to measure.
      cpu_s: CPU seconds on this machine.
      output_bytes: size of the dataset.
      num_shards: number of shards by split.
    """

    num_clips: int
    num_bytes: int
    num_encodes: int
    num_measures: int
    cpu_s: float
    output_bytes: float
    num_shards: dict[str, int]


def measure_rate(source: LabeledSource, settings: PairSettings) -> Rate:
    """Measure one source's clip in the middle of its scale against the reference.

    Args:
      source: source with the file of its reference and another one.
      settings: settings of the examples.

    Raises:
      VideoError: a file cannot be used.
      OSError: a file cannot be read.
    """
    files = dict(source.clips)
    size = {"width": settings.model_width, "height": settings.model_height}
    reference = read_clip(files.pop(source.scale.reference), source).clip
    reference_rgb = reference.rgb_frames(**size)
    quantizer = sorted(files)[len(files) // 2]
    started = time.process_time()
    clip = read_clip(files[quantizer], source).clip
    rgb = clip.rgb_frames(**size)
    measure_quality(reference, clip, reference_rgb=reference_rgb, distorted_rgb=rgb)
    cpu_s = time.process_time() - started
    indices = settings.frame_indices(reference.num_frames, float(reference.fps))
    pngs = [len(encode_png(frame)) for frame in (*reference_rgb[indices], *rgb[indices])]
    return Rate(
        clip=files[quantizer].name,
        width=clip.width,
        height=clip.height,
        num_frames=clip.num_frames,
        cpu_s=cpu_s,
        frame_bytes=float(np.mean(pngs)),
        num_pairs=len(indices),
    )


def build_cost(sources: Sequence[LabeledSource], splits: dict[str, str], rate: Rate) -> BuildCost:
    """Estimate the cost of a build, assuming that all sources resemble the measured one.

    Args:
      sources: sources to build.
      splits: source id to split.
      rate: rate measured on one of them.
    """
    quantizers = [Quantizers(source) for source in sources]
    num_measures = sum(len(each.coded) for each in quantizers)
    num_encodes = sum(1 for each in quantizers for q in each.coded if q not in each.files)
    size = (rate.width, rate.height)
    cpu_s = (
        rate.cpu_s_at(*size, READ_REFERENCE) * len(sources)
        + rate.cpu_s_at(*size, READ_AND_MEASURE) * num_measures
        + rate.cpu_s_at(*size, ENCODE) * num_encodes * (sources[0].scale == QP)
    )
    source_bytes = 4 * rate.frame_bytes * rate.num_pairs
    counts = {
        split: sum(splits[source.source_id] == split for source in sources)
        for split in dict.fromkeys(splits.values())
    }
    return BuildCost(
        num_clips=sum(len(source.clips) for source in sources),
        num_bytes=sum(file.size for source in sources for _, file in source.clips),
        num_encodes=num_encodes,
        num_measures=num_measures,
        cpu_s=cpu_s,
        output_bytes=source_bytes * len(sources),
        num_shards={
            split: num_shards(count * rate.num_pairs, int(count * source_bytes))
            for split, count in counts.items()
        },
    )
