from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_clips import clip_of, moving_clip

from laser_dist.simulation.visibility import MaskingModel, visibility, visibility_threshold
from laser_dist.video.codec import decode, encode_h264

MODEL = MaskingModel()


def gray_clip(luma):
    """A gray clip of [T, H, W] luma."""
    return clip_of(np.clip(np.rint(luma), 0, 255).astype(np.uint8), fps=Fraction(1))


def flat(level=127, num_frames=3):
    return np.full((num_frames, 48, 64), float(level))


def error(seed=0):
    """The same smooth error for every ground, so that only the ground decides."""
    rows, columns = np.mgrid[:48, :64]
    return 4.0 * np.sin(columns / 5 + seed) * np.cos(rows / 5)


def seen(ground, model=MODEL):
    reference, distorted = gray_clip(ground), gray_clip(np.rint(ground) + error())
    return visibility(reference, distorted, visibility_threshold(reference, model), model)


def test_equal_clips_have_no_visibility():
    clip = moving_clip()
    assert visibility(clip, clip, visibility_threshold(clip, MODEL), MODEL) == 0.0


def test_texture_masks_errors():
    texture = np.random.default_rng(0).normal(0, 20, (48, 64))
    assert seen(flat() + texture) < 0.5 * seen(flat())


def test_motion_masks_errors():
    rows, columns = np.mgrid[:48, :64]
    waves = [127 + 40 * np.sin((columns + shift) / 3) for shift in (0, 4, 8)]
    assert seen(np.stack(waves)) < 0.9 * seen(np.stack([waves[0]] * 3))


@pytest.mark.parametrize("level", [30, 220])
def test_dark_and_bright_backgrounds_mask_errors(level):
    assert seen(flat(level)) < seen(flat(127))


def test_the_threshold_on_a_flat_static_mid_gray_background_is_the_base():
    threshold = visibility_threshold(gray_clip(flat(127)), MODEL)
    assert threshold.shape == (3, 48, 64)
    np.testing.assert_allclose(threshold, MODEL.base, rtol=1e-5)


def test_a_constant_offset_there_is_that_many_thresholds():
    reference, distorted = gray_clip(flat(127)), gray_clip(flat(129))
    ratio = visibility(reference, distorted, visibility_threshold(reference, MODEL), MODEL)
    # No blur changes a constant: an error of 2 code values over a threshold of `base`.
    assert ratio == pytest.approx(2 / MODEL.base, rel=1e-4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_visibility_grows_with_qp(seed):
    clip = moving_clip(3, seed=seed)
    threshold = visibility_threshold(clip, MODEL)
    values = [
        visibility(clip, decode(encode_h264(clip, qp=qp), fps=clip.fps), threshold, MODEL)
        for qp in (0, 12, 24, 36, 48)
    ]
    assert values[0] == 0.0
    assert np.all(np.diff(values) > 0)


def test_a_single_frame_counts_as_static():
    np.testing.assert_allclose(
        visibility_threshold(gray_clip(flat(num_frames=1)), MODEL), MODEL.base, rtol=1e-5
    )


def test_clips_of_different_shape_are_refused():
    clip = moving_clip(3)
    with pytest.raises(ValueError, match="Clips differ in shape"):
        visibility(clip, moving_clip(2), visibility_threshold(clip, MODEL), MODEL)
