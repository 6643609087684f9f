"""Scores of FFmpeg's own filters, to compare the project's measurements with.

FFmpeg reads the clips from files, builds the graph from text and prints the scores, as the command
`ffmpeg -i A -i B -lavfi FILTER -f null -` does. No code is shared with the project.
"""

import io
import re
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# FFmpeg's documentation of xpsnr: "The first input is considered a (usually not distorted)
# reference source [...] the second input is a (distorted) test signal". Of psnr and ssim: "the
# first input is considered the main source [...] the second input is used as a reference".
_REFERENCE_FIRST = {"xpsnr"}


def clip_score(name, reference, distorted):
    """Return the luma score of a clip that an FFmpeg filter prints when it is closed.

    Args:
      name: "psnr", "ssim" or "xpsnr".
      reference: H.264 stream, or a clip.
      distorted: the same.
    """
    _, log = _compare(name, reference, distorted)
    return float(re.search(rf"{name.upper()}\s+[yY]:\s*([\d.]+|inf)", log)[1])


def rgb_psnr(reference, distorted, *, width, height):
    """Return the PSNR over R, G and B of a clip that FFmpeg prints, both scaled to a size."""
    scaled = (
        f"scale={width}:{height}:flags=bicubic+accurate_rnd+bitexact+full_chroma_int+full_chroma_inp"
        ":in_color_matrix=bt709:in_range=tv:out_range=pc:in_chroma_loc=left"
        ",format=rgb24,format=gbrp"
    )
    _, log = _compare("psnr", reference, distorted, scaled)
    return float(re.search(r"PSNR .*average:([\d.]+|inf)", log)[1])


def frame_scores(name, key, reference, distorted):
    """Return the score that an FFmpeg filter gives each frame, by its key in the metadata."""
    scores, _ = _compare(name, reference, distorted)
    return [float(score[key]) for score in scores]


def printed_by(filters):
    """Return the metadata of all frames of a filter graph, and what FFmpeg prints meanwhile."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.INFO)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=False) as lines:
            graph = av.open(filters, format="lavfi")
            metadata = [frame.metadata for frame in graph.decode(video=0)]
            graph.close()
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
    return metadata, "".join(text for _, _, text in lines)


def yuv4mpeg(clip):
    """Return a clip, or an H.264 stream of 30000/1001 frames per second, as a YUV4MPEG2 file."""
    if isinstance(clip, bytes):
        # From a raw stream FFmpeg's `movie` would take twice the rate, which matters to xpsnr.
        frames = [frame.to_ndarray() for frame in av.open(io.BytesIO(clip)).decode(video=0)]
        width, height, fps = frames[0].shape[1], frames[0].shape[0] * 2 // 3, Fraction(30000, 1001)
    else:
        planes = zip(clip.y, clip.u, clip.v, strict=True)
        frames = [np.concatenate([plane.ravel() for plane in frame]) for frame in planes]
        width, height, fps = clip.width, clip.height, clip.fps
    header = f"YUV4MPEG2 W{width} H{height} F{fps.numerator}:{fps.denominator} Ip A1:1 C420mpeg2\n"
    return header.encode() + b"".join(b"FRAME\n" + frame.tobytes() for frame in frames)


def _compare(name, reference, distorted, prepare="null"):
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "reference.y4m", Path(folder) / "distorted.y4m"]
        for path, clip in zip(paths, (reference, distorted), strict=True):
            path.write_bytes(yuv4mpeg(clip))
        first, second = paths if name in _REFERENCE_FIRST else reversed(paths)
        inputs = f"movie={first},{prepare}[a];movie={second},{prepare}[b]"
        return printed_by(f"{inputs};[a][b]{name}[out0]")
