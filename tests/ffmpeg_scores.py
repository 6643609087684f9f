"""Scores of FFmpeg's own filters, to compare the project's measurements with.

FFmpeg reads the clips from files, builds the graph from text and prints the scores, as the command
`ffmpeg -i A -i B -lavfi FILTER -f null -` does. No code is shared with the project.
"""

import re
import tempfile
from pathlib import Path

import av

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


def file_of(clip, folder, name):
    """Write an H.264 stream as it is, or a clip as YUV4MPEG2; return the path."""
    path = Path(folder) / f"{name}.{'264' if isinstance(clip, bytes) else 'y4m'}"
    path.write_bytes(clip if isinstance(clip, bytes) else yuv4mpeg(clip))
    return path


def yuv4mpeg(clip):
    """Return a clip as a YUV4MPEG2 file, which has no compression."""
    header = f"YUV4MPEG2 W{clip.width} H{clip.height} F{clip.fps.numerator}:{clip.fps.denominator}"
    frames = (
        b"FRAME\n" + b"".join(plane.tobytes() for plane in planes)
        for planes in zip(clip.y, clip.u, clip.v, strict=True)
    )
    return f"{header} Ip A1:1 C420mpeg2\n".encode() + b"".join(frames)


def _compare(name, reference, distorted):
    with tempfile.TemporaryDirectory() as folder:
        paths = [file_of(reference, folder, "reference"), file_of(distorted, folder, "distorted")]
        first, second = paths if name in _REFERENCE_FIRST else reversed(paths)
        return printed_by(f"movie={first}[a];movie={second}[b];[a][b]{name}[out0]")
