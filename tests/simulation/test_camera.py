from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laser_dist.simulation.camera import Shot, draw_shot, film

STILL = Shot(
    center_x=64.0, center_y=48.0, window_width=64.0, pan_x=0.0, pan_y=0.0, zoom=1.0, shake=0.0,
    exposure=1.0, metered=False, contrast=1.0, tint=(1.0, 1.0, 1.0), defocus=0.0, grain=0.0,
    mirrored=False, seed=0,
)  # fmt: skip
SIZE = {"num_frames": 3, "width": 64, "height": 48}


def photo(height=96, width=128, *, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_a_still_camera_at_full_scale_copies_its_window():
    frames = film(photo(), STILL, **SIZE)
    assert frames.shape == (3, 48, 64, 3)
    assert frames.dtype == np.uint8
    for frame in frames:
        # 64x48 around (64, 48): columns 32..95, rows 24..71, one photograph pixel to a clip pixel.
        np.testing.assert_array_equal(frame, photo()[24:72, 32:96])


def test_mirrored_exchanges_left_and_right():
    mirrored = film(photo(), replace(STILL, mirrored=True), **SIZE)
    np.testing.assert_array_equal(mirrored, film(photo(), STILL, **SIZE)[:, :, ::-1])


def test_contrast_draws_toward_mid_gray_and_tint_weighs_the_channels():
    sharp = film(photo(), STILL, **SIZE).astype(float)
    hazy = film(photo(), replace(STILL, contrast=0.5), **SIZE)
    # An 18 % gray card is 118 in sRGB: half way from there.
    np.testing.assert_allclose(hazy, (sharp + 118) / 2, atol=0.51)
    warm = film(photo(), replace(STILL, tint=(1.0, 1.0, 0.5)), **SIZE)
    np.testing.assert_array_equal(warm[..., :2], sharp[..., :2])
    np.testing.assert_allclose(warm[..., 2], sharp[..., 2] / 2, atol=0.51)


def test_a_pan_moves_the_picture_against_the_camera():
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8)[None, :, None], (96, 128, 3)).copy()
    frames = film(ramp, replace(STILL, pan_x=4.0), **SIZE)
    middle = frames[:, 24, 32, 0].astype(float)
    # Code value = column: the camera 4 columns further right sees values 4 higher.
    np.testing.assert_allclose(np.diff(middle), 4.0, atol=1.0)


@pytest.mark.parametrize(
    "change", [{"pan_x": 3.0}, {"zoom": 0.95}, {"shake": 3.0}, {"grain": 4.0}], ids=str
)
def test_what_moves_differs_from_frame_to_frame(change):
    frames = film(photo(), replace(STILL, **change), **SIZE)
    assert np.any(frames[0] != frames[1])


def test_defocus_smooths_and_exposure_brightens():
    sharp = film(photo(), STILL, **SIZE).astype(float)
    soft = film(photo(), replace(STILL, defocus=2.0), **SIZE).astype(float)
    assert np.abs(np.diff(soft, axis=2)).mean() < 0.3 * np.abs(np.diff(sharp, axis=2)).mean()
    dark = film(photo(), replace(STILL, exposure=0.5), **SIZE).astype(float)
    np.testing.assert_allclose(dark, np.rint(sharp * 0.5), atol=1.0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    width=st.integers(20, 200),
    height=st.integers(20, 200),
    num_frames=st.integers(1, 4),
)
def test_any_drawn_shot_can_be_filmed_reproducibly(seed, width, height, num_frames):
    still = photo(height, width)
    shots = [draw_shot(np.random.default_rng(seed), width, height, 64 / 48) for _ in range(2)]
    assert shots[0] == shots[1]
    frames = [film(still, s, num_frames=num_frames, width=64, height=48) for s in shots]
    assert frames[0].shape == (num_frames, 48, 64, 3)
    np.testing.assert_array_equal(*frames)


@given(seed=st.integers(0, 2**31))
def test_a_drawn_window_is_within_the_photograph(seed):
    shot = draw_shot(np.random.default_rng(seed), 300, 200, 1.5)
    window_height = shot.window_width / 1.5
    assert 0.24 * 300 < shot.window_width <= 300.0001
    assert shot.window_width / 2 - 1e-6 <= shot.center_x <= 300 - shot.window_width / 2 + 1e-6
    assert window_height / 2 - 1e-6 <= shot.center_y <= 200 - window_height / 2 + 1e-6
