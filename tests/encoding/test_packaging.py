"""Names of codecs, as FFmpeg states them."""

import re

import av
import numpy as np
import pytest

from laser_dist.encoding.packaging import hevc_name


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_a_profile_of_hevc_has_the_name_that_ffmpeg_gives_it(tmp_path, pix_fmt):
    """FFmpeg's DASH muxer reads the headers of an encoder, but not those of a file."""

    def write(path, form):
        with av.open(path, "w", form) as container:
            stream = container.add_stream(
                "libx265", rate=25, options={"x265-params": "log-level=error"}
            )
            stream.width, stream.height, stream.pix_fmt = 128, 64, pix_fmt
            stream.codec_context.codec_tag = "hvc1"
            for _ in range(3):
                picture = np.full((64, 128, 3), 90, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())

    write(str(tmp_path / "a.mpd"), "dash")
    (expected,) = re.findall(r'codecs="([^"]+)"', (tmp_path / "a.mpd").read_text())
    write(str(tmp_path / "a.mp4"), "mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert hevc_name(container.streams.video[0].codec_context.extradata) == expected
