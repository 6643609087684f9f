"""One source from its files to frame pairs and quality rows.

LabeledSource ─ read reference ─▶ at each quantizer: read, measure ─▶ MeasuredSource
                                  └ at a level without a good clip: encode anew
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from beam_pipelines.dataset.codecs import (
    CodedClip,
    UnreadableClip,
    encode_image,
    encode_video,
    read_clip,
    read_picture,
)
from beam_pipelines.elements import (
    FROM_FILE,
    FramePair,
    LabeledSource,
    MeasuredSource,
    QualityRow,
    SourceMetadata,
)
from beam_pipelines.rejects import CLIP, Reject
from laser_dist.jnd.scale import NUM_LEVELS, QP
from laser_dist.storage import StoredFile
from laser_dist.video.activity import spatial_information, temporal_information
from laser_dist.video.containers import VideoError
from laser_dist.video.frames import Clip, UInt8Array, evenly_spaced_indices
from laser_dist.video.quality import PSNR_CAP_DB, ClipQuality, measure_quality, psnr_rgb_db


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """What decides the examples, beside the clips.

    Attributes:
      model_width: of the frames, in pixels.
      model_height: of the frames, in pixels.
      frames_per_second: frames taken of each source, at least one; None for all.
    """

    model_width: int
    model_height: int
    frames_per_second: float | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames."""
        return self.model_width, self.model_height

    def frame_indices(self, num_frames: int, fps: float) -> list[int]:
        """Which frames are taken: the centers of equal intervals over the clip."""
        count = num_frames
        if self.frames_per_second is not None:
            wanted = round(num_frames / fps * self.frames_per_second)
            count = int(min(max(wanted, 1), num_frames))
        return evenly_spaced_indices(num_frames, count)


class Quantizers:
    """The quantizers of one source at which there is something to do."""

    def __init__(self, source: LabeledSource) -> None:
        self.files = dict(source.clips)
        self.levels = tuple(q for q in source.level_quantizers if q is not None)
        self.reference = source.scale.reference
        # MCL-JCI's reference may be a level itself; there its frames are the raw ones.
        self.coded = sorted({*self.files, *self.levels} - {self.reference})


def measure_source(
    source: LabeledSource,
    settings: PairSettings,
    unusable: Mapping[int, str],
    report: Callable[[int | None], None],
) -> MeasuredSource:
    """Reads, measures and pairs one source.

    Args:
      source: found and matched.
      settings: of the examples.
      unusable: quantizer to reason: files that are known to be bad, and are left alone.
      report: called with each quantizer before its clip is touched, and with None at last.

    Returns:
      Rows for all quantizers that have a good clip and for the levels, the frame pairs, and a
      reject for each clip that is not good. A level without a good clip is encoded anew.

    Raises:
      VideoError: the reference cannot be used, or a level not be encoded.
    """
    quantizers = Quantizers(source)
    report(quantizers.reference)
    if quantizers.reference in unusable:
        raise VideoError(
            f"Reference of {source.source_id}",
            "a clip that can be decoded",
            unusable[quantizers.reference],
            "Fetch it again.",
        )
    session = _Session(source, settings)
    for quantizer in quantizers.coded:
        report(quantizer)
        session.measure(quantizer, unusable.get(quantizer, ""))
    report(None)  # what comes now is no clip's fault
    return session.result()


class _Session:
    """One source's reference and what has been measured against it so far."""

    def __init__(self, source: LabeledSource, settings: PairSettings) -> None:
        self._source = source
        self._files = dict(source.clips)
        reference = self._read_reference()
        self._reference = reference.clip
        size = {"width": settings.model_width, "height": settings.model_height}
        self._size = size
        self._rgb = self._reference.rgb_frames(**size)
        fps = float(self._reference.fps)
        self._indices = settings.frame_indices(self._reference.num_frames, fps)
        self._rows = [self._reference_row(reference)]
        self._rejects: list[Reject] = []
        self._is_final = True
        self._other_shapes: Counter[str] = Counter()
        self._level_frames = {source.scale.reference: self._rgb[self._indices]}
        self._origins = {source.scale.reference: reference.origin}

    def _read_reference(self) -> CodedClip:
        quantizer = self._source.scale.reference
        if quantizer in self._files:
            return read_clip(self._files[quantizer], self._source)
        return self._encode(quantizer)

    def _encode(self, quantizer: int) -> CodedClip:
        """A clip coded as the dataset's own: of a video the reference, of an image the BMP."""
        if self._source.scale == QP:
            return encode_video(self._reference, quantizer)
        if self._source.original is not None:
            coded = encode_image(self._picture, quantizer)
            if quantizer != self._source.scale.reference:
                self._check_like_reference(coded.clip, str(self._source.original))
            return coded
        return encode_image(self._reference.rgb(0), quantizer)

    @cached_property
    def _picture(self) -> UInt8Array:
        """[H, W, 3] uint8 RGB: the BMP, read once for all that is coded from it."""
        assert self._source.original is not None
        return read_picture(self._source.original)

    def measure(self, quantizer: int, fault: str) -> None:
        """Measures the clip at a quantizer; `fault` is what is known to be wrong with its file."""
        coded = self._read(quantizer, fault) if quantizer in self._files else None
        if coded is None and quantizer not in self._source.level_quantizers:
            return
        if coded is None:
            coded = self._encode(quantizer)
        rgb = coded.clip.rgb_frames(**self._size)
        self._rows.append(self._row(quantizer, coded, rgb))
        if quantizer in self._source.level_quantizers:
            self._level_frames[quantizer] = rgb[self._indices]
            self._origins[quantizer] = coded.origin

    def _read(self, quantizer: int, fault: str) -> CodedClip | None:
        """The clip of a file, None where it cannot be used: that is noted, and why."""
        file = self._files[quantizer]
        try:
            if fault:
                raise UnreadableClip(
                    f"Clip {file}", "a clip that can be decoded", fault, "Mend it."
                )
            coded = read_clip(file, self._source)
            if coded.clip.y.shape != self._reference.y.shape:
                self._other_shapes[_shape(coded.clip)] += 1
            self._check_like_reference(coded.clip, str(file))
        except VideoError as error:
            self._reject(file, error)
            return None
        return coded

    def _reject(self, file: StoredFile, error: VideoError) -> None:
        self._is_final &= not isinstance(error, UnreadableClip)
        self._rejects.append(
            Reject(
                what=CLIP,
                where=str(file),
                stage="measure",
                # Without the error's own beginning, which names the file again.
                why=error.message,
                source_id=self._source.source_id,
            )
        )

    def _check_like_reference(self, clip: Clip, file: str) -> None:
        if clip.y.shape != self._reference.y.shape:
            expected = _shape(self._reference)
            raise VideoError(f"Clip {file}", expected, _shape(clip), "Fetch it again.")

    def _row(self, quantizer: int, coded: CodedClip, rgb: np.ndarray) -> QualityRow:
        return self._quality_row(
            quantizer,
            coded,
            measure_quality(
                self._reference, coded.clip, reference_rgb=self._rgb, distorted_rgb=rgb
            ),
        )

    def _reference_row(self, coded: CodedClip) -> QualityRow:
        """What the reference cost; against itself there is nothing to measure."""
        same = ClipQuality(PSNR_CAP_DB, PSNR_CAP_DB, 1.0, PSNR_CAP_DB)
        return self._quality_row(self._source.scale.reference, coded, same)

    def _quality_row(self, quantizer: int, coded: CodedClip, quality: ClipQuality) -> QualityRow:
        seconds = float(self._reference.num_frames / self._reference.fps)
        has_rate = coded.num_bits is not None and self._source.fps is not None
        return QualityRow(
            source_id=self._source.source_id,
            quantizer=quantizer,
            num_bits=coded.num_bits,
            bitrate_kbps=(coded.num_bits or 0) / 1000 / seconds if has_rate else None,
            psnr_y_db=quality.psnr_y_db,
            psnr_rgb_db=quality.psnr_rgb_db,
            ssim=quality.ssim,
            xpsnr_db=quality.xpsnr_db,
            origin=coded.origin,
            encoder=coded.encoder,
            encoder_version=coded.encoder_version,
        )

    def result(self) -> MeasuredSource:
        """All of it; a reference that most of its clips contradict is no reference."""
        self._check_reference()
        source, levels = self._source, self._source.level_quantizers
        origins = ("" if level is None else self._origins[level] for level in levels)
        facts = SourceMetadata(
            source_id=source.source_id,
            group_id=source.group_id,
            levels=source.levels,
            level_origins=tuple(origins),
            spatial_information=spatial_information(self._reference),
            temporal_information=temporal_information(self._reference),
        )
        pairs = tuple(self._pair(position) for position in range(len(self._indices)))
        rows = sorted(self._rows, key=lambda row: row.quantizer)
        return MeasuredSource(
            facts=facts,
            rows=tuple(rows),
            pairs=pairs,
            rejects=tuple(self._rejects),
            is_final=self._is_final,
        )

    def _check_reference(self) -> None:
        """A stream cut between two frames looks whole, an image's header may lie: clips tell."""
        num_agreeing = sum(row.origin == FROM_FILE for row in self._rows[1:])
        for shape, count in self._other_shapes.most_common(1):
            if count > num_agreeing:
                raise VideoError(
                    f"Reference of {self._source.source_id}",
                    f"{shape}, as most of its clips have",
                    _shape(self._reference),
                    "Fetch it again.",
                )

    def _pair(self, position: int) -> FramePair:
        raw = self._rgb[self._indices[position]]
        frames = np.zeros((NUM_LEVELS, *raw.shape), np.uint8)
        psnr_db = [float("nan")] * NUM_LEVELS
        for level, quantizer in enumerate(self._source.level_quantizers):
            if quantizer is not None:
                frames[level] = self._level_frames[quantizer][position]
                psnr_db[level] = psnr_rgb_db(raw, frames[level])
        first, second, third = psnr_db
        index = self._indices[position]
        return FramePair(
            frame_index=index,
            timestamp_s=float(self._reference.timestamps[index]),
            raw=raw,
            levels=frames,
            psnr_db=(first, second, third),
        )


def _shape(clip: Clip) -> str:
    return f"{clip.num_frames} frames of {clip.width}x{clip.height}"
