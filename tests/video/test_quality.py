import re
from dataclasses import astuple, replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.filter import Graph
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from video_clips import moving_clip, random_clip

from laser_dist.video.codec import decode, encode_h264
from laser_dist.video.quality import PSNR_CAP_DB, measure_quality, psnr_rgb_db

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
    return replace(clip, y=luma.astype(np.uint8))


def test_psnr_y_is_the_mean_over_the_frames(reference, distorted):
    expected = [
        peak_signal_noise_ratio(before, after, data_range=255)
        for before, after in zip(reference.y, distorted.y, strict=True)
    ]
    assert measured(reference, distorted).psnr_y_db == pytest.approx(np.mean(expected), rel=1e-9)


def test_psnr_rgb_compares_the_resized_frames(reference, distorted):
    expected = [
        peak_signal_noise_ratio(
            reference.rgb(index, width=64, height=48),
            distorted.rgb(index, width=64, height=48),
            data_range=255,
        )
        for index in range(6)
    ]
    assert measured(reference, distorted).psnr_rgb_db == pytest.approx(np.mean(expected), rel=1e-9)


def test_one_code_value_off_everywhere_is_48_db(reference):
    # 20 log10(255 / 1) = 48.1308
    quality = measured(reference, with_luma(reference, reference.y + 1))
    assert quality.psnr_y_db == pytest.approx(48.1308, abs=1e-4)


def test_identical_clips_get_the_cap_and_full_similarity(reference):
    assert astuple(measured(reference, reference)) == (PSNR_CAP_DB, PSNR_CAP_DB, 1.0, PSNR_CAP_DB)


def test_an_identical_frame_counts_with_the_cap(reference):
    luma = reference.y.astype(int)
    luma[3:] += 1
    quality = measured(reference, with_luma(reference, luma))
    assert quality.psnr_y_db == pytest.approx((PSNR_CAP_DB + 48.1308) / 2, abs=1e-4)


def test_ssim_of_luma_is_close_to_scikit_image(reference, distorted):
    expected = [
        structural_similarity(before, after, win_size=7, data_range=255)
        for before, after in zip(reference.y, distorted.y, strict=True)
    ]
    # 8x8 windows at steps of 4 there, 7x7 at every pixel here.
    assert measured(reference, distorted).ssim == pytest.approx(np.mean(expected), abs=0.02)


def test_ssim_and_xpsnr_ignore_chroma(reference, distorted):
    gray = np.full_like(distorted.u, 128)
    plain, other = measured(reference, distorted), measured(reference, replace(distorted, u=gray))
    assert (plain.ssim, plain.xpsnr_db) == (other.ssim, other.xpsnr_db)
    assert plain.psnr_rgb_db > other.psnr_rgb_db


def ffmpeg_xpsnr_summary(reference, distorted):
    """Return the luma XPSNR that FFmpeg's filter prints for the clip when it is closed."""
    rate = reference.fps
    source = (
        f"video_size={reference.width}x{reference.height}:pix_fmt=yuv420p"
        f":time_base={rate.denominator}/{rate.numerator}"
        f":frame_rate={rate.numerator}/{rate.denominator}"
    )
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture(local=False) as lines:
            graph = Graph()
            inputs = [graph.add("buffer", source) for _ in range(2)]
            xpsnr, sink = graph.add("xpsnr"), graph.add("buffersink")
            for index, entry in enumerate(inputs):
                entry.link_to(xpsnr, 0, index)
            xpsnr.link_to(sink)
            graph.configure()
            for index in range(reference.num_frames):
                for entry, clip in zip(inputs, (distorted, reference), strict=True):
                    frame = clip.frame(index)
                    frame.pts, frame.time_base = index, 1 / rate
                    entry.push(frame)
                    frame = None
            for entry in inputs:
                entry.push(None)
            for _ in range(reference.num_frames):
                sink.pull()
            del graph, inputs, entry, xpsnr, sink
    finally:
        av.logging.set_level(level)
    text = "".join(line[2] for line in lines)
    match = re.search(r"XPSNR\s+y: ([\d.]+)", text)
    assert match, text
    return float(match[1])


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(60)])
def test_xpsnr_is_ffmpegs_own_figure_for_the_clip(fps):
    reference = moving_clip(6, 96, 128, fps=fps)
    distorted = decode(encode_h264(reference, qp=34))
    expected = ffmpeg_xpsnr_summary(reference, distorted)
    assert measured(reference, distorted).xpsnr_db == pytest.approx(expected, abs=1e-3)


def test_xpsnr_weighs_motion_by_the_frame_rate(reference, distorted):
    fast = [replace(clip, fps=Fraction(60)) for clip in (reference, distorted)]
    assert measured(*fast).xpsnr_db != measured(reference, distorted).xpsnr_db


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
