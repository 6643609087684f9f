"""Scores of FFmpeg's own filters, to compare the project's measurements with."""

import io
from fractions import Fraction

import av

TIME_BASE = Fraction(1, 30)


def filter_scores(name, key, reference, distorted):
    """Return the score that an FFmpeg filter gives each frame of a stream.

    Args:
      name: name of the filter, such as "psnr".
      key: key of the score in the frame's metadata.
      reference: H.264 stream.
      distorted: H.264 stream.
    """
    # The distorted clip is the first input of the filters psnr and ssim.
    clips = [list(av.open(io.BytesIO(s)).decode(video=0)) for s in (distorted, reference)]
    graph = av.filter.Graph()
    rated, sink = graph.add(name), graph.add("buffersink")
    sources = []
    for index, (first, *_) in enumerate(clips):
        size = {"width": first.width, "height": first.height, "format": first.format.name}
        sources.append(graph.add_buffer(**size, time_base=TIME_BASE))
        sources[index].link_to(rated, 0, index)
    rated.link_to(sink)
    graph.configure()
    scores = []
    for number, frames in enumerate(zip(*clips, strict=True)):
        for source, frame in zip(sources, frames, strict=True):
            frame.pts, frame.time_base = number, TIME_BASE
            source.push(frame)
        scores.append(float(sink.pull().metadata[key]))
    return scores
