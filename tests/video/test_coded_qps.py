import re

import av.logging
import numpy as np
import pytest
from video_clips import moving_clip, muxed, random_clip, with_planes

from laser_dist.video.codec import X264Settings, encode_h264
from laser_dist.video.coded_qps import coded_qps
from laser_dist.video.containers import VideoError


@pytest.mark.parametrize("qp", [1, 22, 37, 51])
def test_constant_qp_is_read_from_each_frame(qp):
    assert coded_qps(encode_h264(moving_clip(9), qp=qp)).tolist() == [qp] * 9


def test_ratios_of_frame_types_are_read_in_the_order_of_display():
    # x264: an I frame has QP P - 6 log2(ipratio), and a B frame P + 6 log2(pbratio).
    settings = X264Settings(ipratio=2, pbratio=2, bframes=1, b_adapt=0, b_pyramid="none")
    found = coded_qps(encode_h264(moving_clip(7), qp=30, settings=settings))
    assert found.tolist() == [24, 36, 30, 36, 30, 36, 30]


def test_the_mean_over_blocks_is_what_x264_reports(tmp_path):
    noise = random_clip(3, 64, 64)
    y = noise.y.copy()
    y[:, :, :32] //= 8  # so that adaptive quantization gives the halves different QPs
    path = tmp_path / "halves.mp4"
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture() as logs:
            params = "crf=30:aq-mode=1:aq-strength=2:keyint=1"
            path.write_bytes(muxed(with_planes(noise, y=y), "mp4", **{"x264-params": params}))
    finally:
        av.logging.set_level(None)
    (reported,) = re.findall(r"frame I:3 +Avg QP:([\d.]+)", "".join(text for _, _, text in logs))
    found = coded_qps(path)
    assert len(found) == 3
    assert found.mean() == pytest.approx(float(reported), abs=0.006)
    assert np.any(found != np.rint(found))


def test_the_first_frames_of_groups_stand_for_a_clip():
    noise = random_clip(60, 64, 64)
    contrast = np.linspace(0.05, 1, 60 * 64).reshape(60, 1, 64)  # adaptive quantization follows
    params = "keyint=3:scenecut=0:crf=20:aq-mode=1:aq-strength=2"
    clip = with_planes(noise, y=(noise.y * contrast).astype(np.uint8))
    content = muxed(clip, "mp4", **{"x264-params": params})
    every = coded_qps(content)
    # Of 20 groups, the ones numbered 0, 20 / 8, 2 * 20 / 8 ..., rounded down; two frames of each.
    groups = [0, 2, 5, 7, 10, 12, 15, 17]
    chosen = [3 * group + index for group in groups for index in (0, 1)]
    assert len(set(every.tolist())) >= 5
    assert coded_qps(content, num_frames=16).tolist() == every[chosen].tolist()
    assert coded_qps(content, num_frames=1000).tolist() == every.tolist()


def test_all_frames_are_read_where_the_container_cannot_seek():
    assert len(coded_qps(encode_h264(moving_clip(9), qp=22), num_frames=2)) == 9


def test_other_codecs_and_depths_have_no_qp_of_this_scale():
    clip = moving_clip(3)
    assert (
        coded_qps(muxed(clip, "mp4", codec="libx265", **{"x265-params": "log-level=none"})) is None
    )
    assert coded_qps(muxed(clip, "matroska", codec="ffv1")) is None
    assert coded_qps(muxed(clip, "mp4", pixel_format="yuv420p10le")) is None


def test_a_file_without_frames_is_refused():
    with pytest.raises(VideoError, match="4 bytes in memory"):
        coded_qps(b"none")
