"""Measures one source: from its files to frame pairs and rows of the quality table.

    LabeledSource ─ read reference ─▶ at each quantizer: read, measure ─▶ MeasuredSource
                                       └ at a level without a good clip: encode

This runs in a separate process (`isolation`), which does not import Beam.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property

import numpy as np

from beam_pipelines.dataset.codecs import (
    EncodedClip,
    encode_image,
    encode_video,
    read_clip,
    read_picture,
)
from beam_pipelines.dataset.measured_files import write_measured
from beam_pipelines.elements import (
    FROM_FILE,
    LabeledSource,
    MeasuredPair,
    MeasuredSource,
    PairSettings,
    QualityRow,
    SourceMetadata,
)
from beam_pipelines.inputs.archives import REPLACE_HINT
from beam_pipelines.rejects import CLIP, Reject
from laser_dist.isolation import lacks_memory
from laser_dist.jnd.scale import NUM_LEVELS, QP
from laser_dist.storage import StoredFile
from laser_dist.video.activity import spatial_information, temporal_information
from laser_dist.video.containers import VideoError
from laser_dist.video.frames import Clip, UInt8Array
from laser_dist.video.quality import IDENTICAL, ClipQuality, measure_quality, psnr_rgb_db


def measure_and_write(
    source: LabeledSource,
    settings: PairSettings,
    folder: str,
    unusable: Mapping[int, str],
    report: Callable[[int | None], None],
) -> None:
    """Measure a source with `measure_source` and write its files.

    Args:
      source: as for `measure_source`.
      settings: settings of the examples.
      folder: folder of the files, a path or URL.
      unusable: as for `measure_source`.
      report: as for `measure_source`.
    """
    measured = measure_source(source, settings, unusable, report)
    write_measured(measured, source, settings, folder)


class Quantizers:
    """The quantizers of one source at which something is done."""

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
    """Read and measure one source, and pair its frames.

    Args:
      source: the source.
      settings: settings of the examples.
      unusable: quantizer to reason, for files known to be bad, which are not opened.
      report: called with each quantizer before its clip is opened, and with None at the end.

    Returns:
      Rows for all quantizers with a good clip and for the levels, the frame pairs, and a reject for
      each bad clip. A level without a good clip is encoded.

    Raises:
      VideoError: the reference cannot be used, or a level cannot be encoded.
      UserError: a file cannot be read at present.
    """
    quantizers = Quantizers(source)
    report(quantizers.reference)
    if quantizers.reference in unusable:
        raise _bad_reference(source, f"cannot be decoded: {unusable[quantizers.reference]}")
    session = _Session(source, settings)
    for quantizer in quantizers.coded:
        report(quantizer)
        session.measure(quantizer, unusable.get(quantizer, ""))
    report(None)  # a crash from here on is no clip's fault
    return session.result(is_final=not unusable)


def _bad_reference(source: LabeledSource, problem: str) -> VideoError:
    return VideoError(f"The reference of {source.source_id} {problem}.", hint=REPLACE_HINT)


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
        # Against itself the reference needs no measuring.
        self._rows = [self._row(source.scale.reference, reference, IDENTICAL)]
        self._rejects: list[Reject] = []
        self._other_shapes: Counter[str] = Counter()
        self._level_frames = {source.scale.reference: self._rgb[self._indices]}
        self._origins = {source.scale.reference: reference.origin}

    def _read_reference(self) -> EncodedClip:
        quantizer = self._source.scale.reference
        if quantizer in self._files:
            return read_clip(self._files[quantizer], self._source)
        return self._encode(quantizer)

    def _encode(self, quantizer: int) -> EncodedClip:
        """Encode a clip like the dataset's: the reference of a video, the BMP of an image."""
        if self._source.scale == QP:
            return encode_video(self._reference, quantizer)
        if self._source.original is not None:
            coded = encode_image(self._picture, quantizer)
            if quantizer != self._source.scale.reference:
                self._check_shape(coded.clip, str(self._source.original))
            return coded
        return encode_image(self._reference.rgb(0), quantizer)

    @cached_property
    def _picture(self) -> UInt8Array:
        """[H, W, 3] uint8 RGB: the BMP, read once for all encodes."""
        assert self._source.original is not None
        return read_picture(self._source.original)

    def measure(self, quantizer: int, fault: str) -> None:
        """Measure the clip at a quantizer; `fault` is what is known to be wrong with its file."""
        coded = self._read(quantizer, fault) if quantizer in self._files else None
        if coded is None and quantizer not in self._source.level_quantizers:
            return
        if coded is None:
            coded = self._encode(quantizer)
        rgb = coded.clip.rgb_frames(**self._size)
        quality = measure_quality(
            self._reference, coded.clip, reference_rgb=self._rgb, distorted_rgb=rgb
        )
        self._rows.append(self._row(quantizer, coded, quality))
        if quantizer in self._source.level_quantizers:
            self._level_frames[quantizer] = rgb[self._indices]
            self._origins[quantizer] = coded.origin

    def _read(self, quantizer: int, fault: str) -> EncodedClip | None:
        """Return the clip of a file; None, with a reject, if it cannot be used."""
        file = self._files[quantizer]
        try:
            if fault:
                raise VideoError(f"Cannot decode {file}: {fault}.")
            coded = read_clip(file, self._source)
            if coded.clip.y.shape != self._reference.y.shape:
                self._other_shapes[_shape(coded.clip)] += 1
            self._check_shape(coded.clip, str(file))
        except VideoError as error:
            if not fault and lacks_memory(error):
                raise
            self._reject(file, error)
            return None
        return coded

    def _reject(self, file: StoredFile, error: VideoError) -> None:
        self._rejects.append(
            Reject(
                what=CLIP,
                where=str(file),
                stage="measure",
                why=error.message.replace(str(file), "it").rstrip("."),
                source_id=self._source.source_id,
            )
        )

    def _check_shape(self, clip: Clip, file: str) -> None:
        if clip.y.shape != self._reference.y.shape:
            expected = _shape(self._reference)
            raise VideoError(
                f"{file} has {_shape(clip)}, but the reference has {expected}.", hint=REPLACE_HINT
            )

    def _row(self, quantizer: int, coded: EncodedClip, quality: ClipQuality) -> QualityRow:
        seconds = float(self._reference.num_frames / self._reference.fps)
        has_rate = coded.num_bits is not None and self._source.fps is not None
        return QualityRow(
            source_id=self._source.source_id,
            quantizer=quantizer,
            num_bits=coded.num_bits,
            bitrate_kbps=(coded.num_bits or 0) / 1000 / seconds if has_rate else None,
            origin=coded.origin,
            encoder=coded.encoder,
            encoder_version=coded.encoder_version,
            **asdict(quality),
        )

    def result(self, *, is_final: bool) -> MeasuredSource:
        """Assemble the result; raise if most clips disagree with the reference's shape."""
        self._check_reference()
        source, levels = self._source, self._source.level_quantizers
        metadata = SourceMetadata(
            source_id=source.source_id,
            group_id=source.group_id,
            levels=source.levels,
            level_origins=tuple("" if q is None else self._origins[q] for q in levels),
            spatial_information=spatial_information(self._reference),
            temporal_information=temporal_information(self._reference),
        )
        return MeasuredSource(
            metadata=metadata,
            rows=tuple(sorted(self._rows, key=lambda row: row.quantizer)),
            pairs=tuple(self._pair(position) for position in range(len(self._indices))),
            rejects=tuple(self._rejects),
            is_final=is_final,
        )

    def _check_reference(self) -> None:
        """Compare the reference with the other clips.

        A stream truncated between two frames looks complete, and an image's header may be wrong.
        """
        num_agreeing = sum(row.origin == FROM_FILE for row in self._rows[1:])
        for shape, count in self._other_shapes.most_common(1):
            if count > num_agreeing:
                own = _shape(self._reference)
                raise _bad_reference(self._source, f"has {own}, but most of its clips have {shape}")

    def _pair(self, position: int) -> MeasuredPair:
        raw = self._rgb[self._indices[position]]
        frames = np.zeros((NUM_LEVELS, *raw.shape), np.uint8)
        psnr_db = [float("nan")] * NUM_LEVELS
        for level, quantizer in enumerate(self._source.level_quantizers):
            if quantizer is not None:
                frames[level] = self._level_frames[quantizer][position]
                psnr_db[level] = psnr_rgb_db(raw, frames[level])
        first, second, third = psnr_db
        index = self._indices[position]
        return MeasuredPair(
            frame_index=index,
            timestamp_s=float(self._reference.timestamps[index]),
            raw=raw,
            levels=frames,
            psnr_db=(first, second, third),
        )


def _shape(clip: Clip) -> str:
    return f"{clip.num_frames} frames of {clip.width}x{clip.height}"
