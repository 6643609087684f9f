import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_clips import moving_clip, muxed

from laser_dist.simulation.excerpt import Excerpt, draw_excerpt, read_excerpt
from laser_dist.video.codec import decode, encode_h264
from laser_dist.video.containers import VideoError
from laser_dist.video.frames import resize_rgb

EXCERPT = Excerpt(first_frame=5, left=6, top=4, window_width=40, window_height=30)
SIZE = {"num_frames": 3, "width": 20, "height": 16}


@pytest.fixture(params=["mp4", "avi", "264"])
def video(request, tmp_path):
    """Twelve frames; seeking is exact in the first container alone."""
    clip = moving_clip(12, height=48, width=64)
    path = tmp_path / f"video.{request.param}"
    path.write_bytes(
        encode_h264(clip, qp=10) if request.param == "264" else muxed(clip, request.param)
    )
    return path


def test_the_excerpt_is_the_same_part_of_the_decoded_clip(video):
    whole = decode(video)
    expected = [
        resize_rgb(whole.rgb(index)[4:34, 6:46], width=20, height=16) for index in (5, 6, 7)
    ]
    np.testing.assert_array_equal(read_excerpt(video, EXCERPT, **SIZE), np.stack(expected))


def test_a_drawn_excerpt_is_within_the_video_and_reaches_its_last_frame(video):
    lasts = set()
    for seed in range(60):
        excerpt = draw_excerpt(np.random.default_rng(seed), video, 4 / 3, 3)
        assert 0 <= excerpt.left <= excerpt.left + excerpt.window_width <= 64
        assert 0 <= excerpt.top <= excerpt.top + excerpt.window_height <= 48
        lasts.add(excerpt.first_frame + 2)
    assert min(lasts) == 2
    assert max(lasts) == 11


@given(seed=st.integers(0, 2**31))
def test_the_window_keeps_the_aspect_and_covers_half_of_the_widest_or_more(seed, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "aspect.mp4"
    if not path.exists():
        path.write_bytes(muxed(moving_clip(4, height=96, width=128), "mp4"))
    excerpt = draw_excerpt(np.random.default_rng(seed), path, 2.0, 4)
    assert 63 <= excerpt.window_width <= 128  # the widest of aspect 2 is 128x64
    assert abs(excerpt.window_width / 2 - excerpt.window_height) <= 1


def test_memory_does_not_grow_with_what_comes_before(tmp_path):
    frame_bytes = 240 * 320 * 3
    path = tmp_path / "long.264"  # no index: all before has to be decoded
    path.write_bytes(encode_h264(moving_clip(60, height=240, width=320), qp=40))
    excerpt = Excerpt(first_frame=57, left=0, top=0, window_width=320, window_height=240)
    tracemalloc.start()
    read_excerpt(path, excerpt, num_frames=2, width=64, height=48)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * frame_bytes


def test_a_video_that_is_too_short_is_an_error(video):
    with pytest.raises(VideoError, match="has 12 frames; a clip needs 13"):
        draw_excerpt(np.random.default_rng(0), video, 1.0, 13)


def test_an_excerpt_past_the_end_is_an_error(video):
    late = Excerpt(first_frame=10, left=0, top=0, window_width=32, window_height=32)
    with pytest.raises(VideoError, match="it has 2 of 3 frames"):
        read_excerpt(video, late, **SIZE)


def test_a_window_larger_than_the_frame_is_an_error(video):
    wide = Excerpt(first_frame=0, left=40, top=0, window_width=40, window_height=30)
    with pytest.raises(VideoError, match="has a frame of 64x48 pixels; its excerpt needs 80x30"):
        read_excerpt(video, wide, **SIZE)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(VideoError, match="does not exist"):
        draw_excerpt(np.random.default_rng(0), tmp_path / "none.mp4", 1.0, 1)


def test_a_replaced_file_is_measured_again(tmp_path):
    path = tmp_path / "clip.264"
    for num_frames in (2, 6):
        path.write_bytes(encode_h264(moving_clip(num_frames, fps=Fraction(25)), qp=30))
        rng = np.random.default_rng(1)
        drawn = {draw_excerpt(rng, path, 1.0, 2).first_frame for _ in range(40)}
        assert drawn == set(range(num_frames - 1))
