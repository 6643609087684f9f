"""Damage encoded streams and check the outcome; runs in the codec's process."""

import io
import random
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from labeled_fakes import FPS, HEIGHT, SETTINGS, WIDTH, levels_at, stored, waves

from beam_pipelines.dataset.frame_pairs import measure_source
from beam_pipelines.elements import LabeledSource
from laser_dist.jnd.scale import QF, QP
from laser_dist.video.codec import decode, encode_h264
from laser_dist.video.frames import Clip
from laser_dist.video.images import encode_jpeg
from laser_dist.video.quality import measure_quality

NUM_FRAMES = 8
QUANTIZER = 50  # QP or QF of the damaged clip in its source; it need not match the encoding
REJECTED, SAME, OTHER = "rejected", "same frames", "other frames"


def good_streams() -> dict[str, bytes]:
    """Return intact streams by name; the suffix of the name is the file's suffix."""
    clip = waves(NUM_FRAMES)
    return {
        **{f"qp{qp}.264": encode_h264(clip, qp=qp) for qp in (1, 12, 22, 32, 42)},
        **{f"qp{qp}.mp4": in_mp4(clip, qp) for qp in (12, 32)},
        **{f"qf{qf}.jpg": encode_jpeg(clip.rgb(0), quality=qf) for qf in (10, 50, 90)},
    }


def in_mp4(clip: Clip, qp: int) -> bytes:
    """Return the clip, encoded by x264 with its default settings, in an MP4."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=clip.fps)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        stream.codec_context.options = {"qp": str(qp)}
        for index in range(clip.num_frames):
            frame = clip.frame(index)
            frame.pts, frame.time_base = index, 1 / clip.fps
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return target.getvalue()


def damaged(content: bytes, seed: int) -> bytes:
    """Return the content with one to three faults that disks, networks and tools cause."""
    rng = random.Random(seed)
    data = bytearray(content)
    while bytes(data) == content:
        for _ in range(rng.choice((1, 1, 3))):
            # A third of the faults are in the headers, where most kinds of errors occur.
            limit = rng.choice((200, len(data), len(data)))
            position = rng.randrange(min(limit, len(data)) or 1)
            size = rng.choice((1, 8, 64, 300))
            kind = rng.choice(("bits", "bits", "cut", "lost", "inserted", "repeated", "zeros"))
            if kind == "bits":
                for bit in range(rng.choice((1, 1, 8))):
                    if position + bit < len(data):
                        data[position + bit] ^= 1 << rng.randrange(8)
            elif kind == "cut":
                del data[position:]
            elif kind == "lost":
                del data[position : position + size]
            elif kind == "inserted":
                data[position:position] = rng.randbytes(size)
            elif kind == "repeated":
                data[position:position] = data[position : position + size]
            else:
                data[position : position + size] = bytes(len(data[position : position + size]))
    return bytes(data)


def source_of(folder: Path, name: str, intact: bytes, content: bytes) -> LabeledSource:
    """Return a source without levels: an intact reference, the content, and an intact clip."""
    is_image = name.endswith(".jpg")
    clip = waves(NUM_FRAMES)
    original = encode_jpeg(clip.rgb(0), quality=100) if is_image else encode_h264(clip, qp=0)
    suffix = name.rpartition(".")[2]
    reference = stored(folder / ("reference.jpg" if is_image else "reference.264"), original)
    tested = stored(folder / f"damaged.{suffix}", content)
    # With only the damaged clip, another number of frames would count against the reference.
    other = stored(folder / f"intact.{suffix}", intact)
    scale = QF if is_image else QP
    missing = tuple(replace(level, value=float("nan")) for level in levels_at(1, 1, 1))
    return LabeledSource(
        source_id=name,
        group_id=name,
        scale=scale,
        fps=None if is_image else FPS,
        size=(WIDTH, HEIGHT),
        clips=((scale.reference, reference), (QUANTIZER, tested), (QUANTIZER + 1, other)),
        levels=missing,
    )


def outcomes(folder, streams, numbers, report) -> list[tuple[int, str]]:
    """Return the outcomes of damaged streams: `REJECTED`, `SAME` or `OTHER`, or an error of a row.

    Args:
      folder: folder for files.
      streams: intact streams, by name.
      numbers: numbers of the damaged streams; each is also the seed of the damage.
      report: called with each number before its stream is read.
    """
    names = sorted(streams)
    found = []
    for number in numbers:
        report(number)
        name = names[number % len(names)]
        content = damaged(streams[name], number)
        found.append((number, outcome(Path(folder), name, streams[name], content)))
    return found


def outcome(folder: Path, name: str, intact: bytes, content: bytes) -> str:
    """Return the outcome of a stream's damaged content, given its intact content."""
    source = source_of(folder, name, intact, content)
    result = measure_source(source, SETTINGS, {}, lambda step: None)
    rows = {row.quantizer: row for row in result.rows}
    if QUANTIZER not in rows:
        (reject,) = result.rejects
        is_named = reject.where.endswith(Path(source.clips[1][1].location).name) and reject.why
        return REJECTED if is_named and reject.what == "clip" else f"unexpected reject: {reject}"
    if result.rejects:
        return f"a row and a reject: {result.rejects}"
    clip, good = _decoded(content, source), _decoded(intact, source)
    reference = _decoded(Path(source.clips[0][1].location).read_bytes(), source)
    if clip.y.shape != reference.y.shape:
        return f"row of frames of another shape: {clip.y.shape}"
    if _numbers(rows[QUANTIZER]) != _numbers(_measured(reference, clip)):
        return f"row of other frames: {rows[QUANTIZER]}"
    planes = zip((clip.y, clip.u, clip.v), (good.y, good.u, good.v), strict=True)
    return SAME if all(np.array_equal(*pair) for pair in planes) else OTHER


def _decoded(content: bytes, source: LabeledSource) -> Clip:
    return decode(content, max_frames=1 if source.fps is None else None).with_fps(FPS)


def _measured(reference: Clip, clip: Clip):
    rgb = [each.rgb_frames(width=32, height=32) for each in (reference, clip)]
    return measure_quality(reference, clip, reference_rgb=rgb[0], distorted_rgb=rgb[1])


def _numbers(row) -> tuple[float, ...]:
    return row.psnr_y_db, row.psnr_rgb_db, row.ssim, row.xpsnr_db
