from dataclasses import astuple, replace
from fractions import Fraction

import numpy as np
import pytest
from ffmpeg_scores import clip_score, frame_scores, rgb_psnr
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from video_clips import moving_clip, random_clip, with_planes

from laser_dist.video.codec import decode, encode_h264
from laser_dist.video.quality import IDENTICAL, PSNR_CAP_DB, measure_quality, psnr_rgb_db

small_rgb = arrays(np.uint8, (4, 5, 3))


@pytest.fixture(scope="module")
def reference():
    return moving_clip(6, 96, 128)


@pytest.fixture(scope="module")
def distorted(reference):
    return decode(encode_h264(reference, qp=34))


def measured(reference, distorted):
    rgb = [clip.rgb_frames(width=64, height=48) for clip in (reference, distorted)]
    return measure_quality(reference, distorted, reference_rgb=rgb[0], distorted_rgb=rgb[1])


def with_luma(clip, luma):
    return with_planes(clip, y=luma.astype(np.uint8))


def test_psnr_rgb_compares_the_resized_frames(reference, distorted):
    frames = [clip.rgb_frames(width=64, height=48) for clip in (reference, distorted)]
    assert measured(reference, distorted).psnr_rgb_db == pytest.approx(
        peak_signal_noise_ratio(*frames), rel=1e-9
    )


def test_one_code_value_off_everywhere_is_48_db(reference):
    # 20 log10(255 / 1) = 48.1308
    quality = measured(reference, with_luma(reference, reference.y + 1))
    assert quality.psnr_y_db == pytest.approx(48.1308, abs=1e-4)


def test_identical_clips_get_the_cap_and_full_similarity(reference):
    assert measured(reference, reference) == IDENTICAL


def test_identical_frames_do_not_dominate_the_psnr_of_a_clip(reference):
    luma = reference.y.astype(int)
    luma[3:] += 1
    quality = measured(reference, with_luma(reference, luma))
    # A mean squared error of 1/2: 10 log10(2 * 255^2).
    assert quality.psnr_y_db == pytest.approx(51.1411, abs=1e-4)


def test_the_worst_frame_and_the_5th_percentile_are_those_of_the_frames():
    clip = random_clip(41, 16, 16)
    luma = clip.y // 2
    off = np.arange(1, 42)[:, None, None]  # code values by which frame n is off
    quality = measured(with_luma(clip, luma), with_luma(clip, luma + off))
    # Of 41 frames, 5% are 2 of 40 steps from the worst: the third, 39 code values off.
    assert quality.psnr_y_min_db == pytest.approx(20 * np.log10(255 / 41))
    assert quality.psnr_y_p5_db == pytest.approx(20 * np.log10(255 / 39))


def test_ssim_of_luma_is_close_to_scikit_image(reference, distorted):
    expected = [
        structural_similarity(before, after, win_size=7, data_range=255)
        for before, after in zip(reference.y, distorted.y, strict=True)
    ]
    # 8x8 windows at steps of 4 there, 7x7 at every pixel here.
    assert measured(reference, distorted).ssim == pytest.approx(np.mean(expected), abs=0.02)


def test_ssim_and_xpsnr_ignore_chroma(reference, distorted):
    gray = np.full_like(distorted.u, 128)
    plain, other = (
        measured(reference, distorted),
        measured(reference, with_planes(distorted, u=gray)),
    )
    assert (plain.ssim, plain.xpsnr_db) == (other.ssim, other.xpsnr_db)
    assert plain.psnr_rgb_db > other.psnr_rgb_db


def flat_and_noisy():
    """Return a flat clip and one with noise: each is a very different reference for the other."""
    flat = with_planes(moving_clip(5, 64, 96), y=np.full((5, 64, 96), 120, np.uint8))
    noise = np.random.default_rng(0).integers(-9, 10, flat.y.shape)
    return flat, with_luma(flat, flat.y + noise)


def partly_frozen():
    """Return a clip that begins with black frames and then stands still, coded exactly there."""
    clip = moving_clip(8, 96, 128)
    luma = clip.y.copy()
    luma[:3] = 16
    luma[5:] = luma[5]
    coded = decode(encode_h264(with_planes(clip, y=luma), qp=34)).y.copy()
    coded[:3] = 16
    return with_planes(clip, y=luma), with_planes(clip, y=coded)


def coded(clip, qp=34):
    return clip, decode(encode_h264(clip, qp=qp))


PAIRS = {
    "moving": lambda: coded(moving_clip(6, 96, 128)),
    "at 24 fps": lambda: coded(moving_clip(6, 96, 128, fps=Fraction(24))),
    "at 60 fps": lambda: coded(moving_clip(6, 96, 128, fps=Fraction(60))),
    "of a size that blocks do not divide": lambda: coded(moving_clip(4, 50, 74)),
    "noise": lambda: coded(random_clip(3, 64, 64), qp=45),
    "asymmetric": flat_and_noisy,
    "asymmetric, reversed": lambda: flat_and_noisy()[::-1],
    "partly frozen": partly_frozen,
}
each_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


@each_pair
def test_psnr_is_what_ffmpeg_prints_for_the_clip_and_each_frame(pair):
    reference, distorted = pair()
    quality = measured(reference, distorted)
    assert quality.psnr_y_db == pytest.approx(clip_score("psnr", reference, distorted), abs=1e-5)
    assert quality.psnr_y_db == pytest.approx(
        peak_signal_noise_ratio(reference.y, distorted.y), rel=1e-9
    )
    frames = frame_scores("psnr", "lavfi.psnr.psnr.y", reference, distorted)
    assert quality.psnr_y_min_db == pytest.approx(min(frames), abs=1e-5)
    capped = np.minimum(frames, PSNR_CAP_DB)
    assert quality.psnr_y_p5_db == pytest.approx(np.percentile(capped, 5), abs=1e-5)


@each_pair
def test_psnr_of_the_resized_rgb_frames_is_what_ffmpeg_prints(pair):
    reference, distorted = pair()
    assert measured(reference, distorted).psnr_rgb_db == pytest.approx(
        rgb_psnr(reference, distorted, width=64, height=48), abs=1e-5
    )


@each_pair
def test_xpsnr_is_what_ffmpeg_prints_for_the_clip(pair):
    reference, distorted = pair()
    assert measured(reference, distorted).xpsnr_db == pytest.approx(
        clip_score("xpsnr", reference, distorted), abs=1e-4
    )


@each_pair
def test_ssim_is_what_ffmpeg_prints_for_the_clip(pair):
    reference, distorted = pair()
    assert measured(reference, distorted).ssim == pytest.approx(
        clip_score("ssim", reference, distorted), abs=1e-6
    )


def test_noise_in_a_flat_clip_has_the_weight_of_the_published_formula():
    # Helmrich et al. 2020: the squared error of a block is weighted by sqrt(a_pic / a_k) with
    # a_pic = 2^(2 bits - 9) sqrt(3840 * 2160 / (W H)), and with the activity a_k of the reference,
    # here the least, 2^(bits - 6) before FFmpeg's high-pass gain of 4. A clip has the mean of the
    # frames' root errors. FFmpeg compares the first frame with black: it has no error here.
    flat, noisy = flat_and_noisy()
    luma = noisy.y.copy()
    luma[0] = flat.y[0]
    size = 64 * 96
    weight = np.sqrt(2**7 * np.sqrt(3840 * 2160 / size)) * 4 / 2 ** (8 - 6)
    squared = ((luma.astype(float) - flat.y) ** 2).sum(axis=(1, 2))
    root = np.sqrt(weight * squared / size).mean()
    assert measured(flat, with_luma(flat, luma)).xpsnr_db == pytest.approx(
        20 * np.log10(255 / root), abs=1e-3
    )


def test_a_clip_too_small_for_xpsnr_gets_psnr():
    # FFmpeg's filter would crash the process: 44 x 46 = 2024 pixels give blocks of side 0.
    for height, width in ((16, 16), (44, 46)):
        clip = moving_clip(3, height, width)
        quality = measured(clip, decode(encode_h264(clip, qp=40)))
        assert quality.xpsnr_db == quality.psnr_y_db
    clip = moving_clip(3, 46, 46)
    quality = measured(clip, decode(encode_h264(clip, qp=40)))
    assert quality.xpsnr_db != quality.psnr_y_db


def test_every_metric_falls_as_qp_rises(reference):
    values = [
        astuple(measured(reference, decode(encode_h264(reference, qp=qp)))) for qp in (6, 22, 38)
    ]
    for better, worse in zip(values, values[1:], strict=False):
        assert all(high > low for high, low in zip(better, worse, strict=True))


def test_timestamps_are_ignored(reference, distorted):
    late = replace(distorted, timestamps=tuple(time + 5 for time in distorted.timestamps))
    assert measured(reference, late) == measured(reference, distorted)


@pytest.mark.parametrize("shape", [(5, 96, 128), (6, 96, 126)])
def test_clips_of_different_shape_are_refused(reference, shape):
    with pytest.raises(ValueError, match="clips must agree"):
        measured(reference, random_clip(*shape))


@settings(deadline=None)
@given(before=small_rgb, after=small_rgb)
def test_psnr_rgb_is_symmetric_capped_and_agrees_with_scikit_image(before, after):
    value = psnr_rgb_db(before, after)
    assert value == psnr_rgb_db(after, before)
    assert 0 <= value <= PSNR_CAP_DB
    if not np.array_equal(before, after):
        assert value == pytest.approx(peak_signal_noise_ratio(before, after, data_range=255))


def test_psnr_rgb_of_a_large_frame_with_one_error_is_capped():
    before = np.zeros((1080, 1920, 3), np.uint8)
    after = before.copy()
    after[0, 0, 0] = 1  # 48.13 + 10 log10(1080 * 1920 * 3) = 116 dB
    assert psnr_rgb_db(before, after) == PSNR_CAP_DB


@pytest.mark.parametrize(
    ("before", "after"), [((2, 2, 3), (2, 3, 3)), ((2, 2, 4), (2, 2, 4)), ((0, 2, 3), (0, 2, 3))]
)
def test_psnr_rgb_refuses_other_shapes(before, after):
    with pytest.raises(ValueError, match="need two equal"):
        psnr_rgb_db(np.zeros(before, np.uint8), np.zeros(after, np.uint8))
