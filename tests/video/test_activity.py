import numpy as np
import pytest
from ffmpeg_scores import printed_by, yuv4mpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from video_clips import clip_of, moving_clip, random_clip, with_planes

from laser_dist.video.activity import spatial_information, temporal_information

clips = st.builds(
    random_clip,
    st.integers(1, 4),
    st.integers(8, 16).map(lambda half: 2 * half),
    st.integers(8, 16).map(lambda half: 2 * half),
    seed=st.integers(0, 1000),
)


def with_luma(luma):
    luma = np.asarray(luma, np.uint8)
    return clip_of(luma)


@settings(deadline=None)
@given(clip=clips)
def test_spatial_information_agrees_with_scipys_sobel(clip):
    expected = []
    for luma in clip.y.astype(float):
        length = np.hypot(ndimage.sobel(luma, axis=0), ndimage.sobel(luma, axis=1))
        expected.append(length[1:-1, 1:-1].std())
    assert spatial_information(clip) == pytest.approx(max(expected), rel=1e-5)


def test_a_constant_gradient_has_no_spatial_information():
    assert spatial_information(with_luma(np.full((2, 16, 16), 90))) == 0
    ramp = np.tile(np.arange(16) * 3, (1, 16, 1))
    assert spatial_information(with_luma(ramp)) == 0  # the same gradient everywhere


def test_spatial_information_of_a_step():
    step = np.zeros((1, 16, 18))
    step[:, :, 9:] = 50
    # Inside the frame, the filter output is 4 * 50 = 200 in the 2 of 16 columns at the edge:
    # the standard deviation is 200 sqrt(1/8 * 7/8).
    assert spatial_information(with_luma(step)) == pytest.approx(200 * np.sqrt(7) / 8)


def test_temporal_information_of_a_half_that_changes():
    luma = np.full((2, 16, 16), 100)
    luma[1, :8] = 120  # differences 20 in one half and 0 in the other
    assert temporal_information(with_luma(luma)) == pytest.approx(10)


def test_a_uniform_brightness_change_has_no_temporal_information():
    assert temporal_information(with_luma([np.full((16, 16), value) for value in (10, 250)])) == 0


def test_a_single_frame_has_no_temporal_information():
    assert temporal_information(random_clip(1)) == 0


@settings(deadline=None)
@given(clip=clips)
def test_temporal_information_is_the_maximum_in_either_direction(clip):
    steps = np.diff(clip.y.astype(float), axis=0)
    expected = max((step.std() for step in steps), default=0)
    assert temporal_information(clip) == pytest.approx(expected)
    reversed_clip = with_planes(clip, y=clip.y[::-1])
    assert temporal_information(reversed_clip) == pytest.approx(expected)


def test_spatial_information_is_the_maximum_over_the_frames():
    clip = moving_clip(3)
    flat = clip.y.copy()
    flat[:2] = 128
    last = with_luma(clip.y[2:])
    assert spatial_information(with_planes(clip, y=flat)) == spatial_information(last)


@pytest.mark.parametrize(
    "clip", [moving_clip(4, 50, 74), random_clip(3, 32, 48)], ids=["moving, odd size", "noise"]
)
def test_both_are_those_of_ffmpegs_filter(clip, tmp_path):
    path = tmp_path / "clip.y4m"
    path.write_bytes(yuv4mpeg(clip))
    # In limited range, FFmpeg would stretch luma to full range first.
    scores, _ = printed_by(f"movie={path},setparams=range=pc,siti")
    for key, information in (("si", spatial_information), ("ti", temporal_information)):
        expected = max(float(score[f"lavfi.siti.{key}"]) for score in scores)
        assert information(clip) == pytest.approx(expected, abs=0.01)
