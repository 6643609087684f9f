import gc
import io
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from video_clips import NTSC, moving_clip, muxed, random_clip

from laser_dist.video.codec import decode, encode_h264
from laser_dist.video.frames import (
    SCALER_FLAGS,
    Clip,
    evenly_spaced_indices,
    frame_planes,
    resize_rgb,
    to_420,
)

code_values = st.integers(0, 255)


def luma_weights(matrix):
    return {
        "bt709": np.array([0.2126, 0.7152, 0.0722]),  # ITU-R BT.709-6, item 3.2
        "bt601": np.array([0.299, 0.587, 0.114]),  # ITU-R BT.601-7, section 2.5.1
    }[matrix]


def to_ycbcr(rgb, matrix="bt709"):
    """Convert full-range R'G'B' to limited-range Y'CbCr, unrounded, by the standards' equations."""
    red, _, blue = weights = luma_weights(matrix)
    rgb01 = np.asarray(rgb, float) / 255
    luma = rgb01 @ weights
    blue_difference = (rgb01[..., 2] - luma) / (2 * (1 - blue))
    red_difference = (rgb01[..., 0] - luma) / (2 * (1 - red))
    return np.stack((16 + 219 * luma, 128 + 224 * blue_difference, 128 + 224 * red_difference), -1)


def to_rgb(ycbcr, matrix="bt709"):
    """Invert `to_ycbcr`, which is an affine map."""
    origin = to_ycbcr(np.zeros(3), matrix)
    linear = to_ycbcr(np.eye(3) * 255, matrix) - origin
    return (np.asarray(ycbcr, float) - origin) @ np.linalg.inv(linear) * 255


def flat_frame(values, *, colorspace, color_range, pixel_format="yuv420p"):
    frame = av.VideoFrame(32, 32, pixel_format)
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace, frame.color_range = colorspace, color_range
    return frame


def planes_center(frame):
    return [int(plane[8, 8]) for plane in frame_planes(frame)]


@settings(deadline=None)
@given(rgb=st.tuples(code_values, code_values, code_values))
def test_a_flat_color_becomes_its_bt709_code_values(rgb):
    clip = Clip.from_rgb(np.full((1, 16, 16, 3), rgb, np.uint8), NTSC)
    for plane, expected in zip((clip.y, clip.u, clip.v), to_ycbcr(rgb), strict=True):
        assert plane.min() == plane.max()
        assert abs(float(plane[0, 0, 0]) - expected) <= 1


@settings(deadline=None)
@given(rgb=st.tuples(code_values, code_values, code_values))
def test_rgb_inverts_from_rgb_up_to_rounding(rgb):
    clip = Clip.from_rgb(np.full((1, 16, 16, 3), rgb, np.uint8), NTSC)
    # Half a code value of Cb moves blue by 1.8556 * 255 / 224 / 2 = 1.06; luma adds 0.58.
    assert np.abs(clip.rgb(0).astype(int) - rgb).max() <= 3


def test_luma_of_each_pixel_follows_bt709():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (2, 32, 48, 3), np.uint8)
    clip = Clip.from_rgb(rgb, NTSC)
    assert np.abs(clip.y - to_ycbcr(rgb)[..., 0]).max() < 0.6


def test_white_and_black_are_the_ends_of_the_limited_range():
    ends = np.stack([np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)])
    clip = Clip.from_rgb(ends, NTSC)
    assert clip.y[:, 0, 0].tolist() == [16, 235]
    assert {*clip.u.ravel().tolist(), *clip.v.ravel().tolist()} == {128}
    assert np.array_equal(clip.rgb(0), ends[0])
    assert np.array_equal(clip.rgb(1), ends[1])


@pytest.mark.parametrize(("colorspace", "matrix"), [(5, "bt601"), (6, "bt601"), (1, "bt709")])
def test_the_stated_matrix_is_honored(colorspace, matrix):
    coded = (120, 100, 160)
    frame = flat_frame(coded, colorspace=colorspace, color_range=ColorRange.MPEG)
    expected = to_ycbcr(to_rgb(coded, matrix))
    assert np.abs(planes_center(to_420(frame)) - expected).max() <= 1


@pytest.mark.parametrize("colorspace", [0, 2], ids=["rgb (nonsense)", "unspecified"])
def test_an_unspecified_matrix_counts_as_bt709(colorspace):
    frame = flat_frame((120, 100, 160), colorspace=colorspace, color_range=0)
    assert planes_center(to_420(frame)) == [120, 100, 160]


def test_full_range_is_converted_to_limited():
    frame = flat_frame((255, 128, 128), colorspace=1, color_range=ColorRange.JPEG)
    assert planes_center(to_420(frame)) == [235, 128, 128]


@pytest.mark.parametrize("color_range", [0, ColorRange.MPEG, ColorRange.JPEG])
def test_rgb_counts_as_full_range_whatever_the_frame_states(color_range):
    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 255, np.uint8), format="rgb24")
    frame.color_range = color_range
    assert planes_center(to_420(frame)) == [235, 128, 128]


def test_converting_444_keeps_the_values():
    frame = flat_frame((90, 60, 200), colorspace=2, color_range=0, pixel_format="yuv444p")
    converted = to_420(frame)
    assert converted.format.name == "yuv420p"
    assert planes_center(converted) == [90, 60, 200]


def test_an_odd_last_row_and_column_are_cropped():
    y, u, v = frame_planes(av.VideoFrame(33, 19, "yuv420p"))
    assert (y.shape, u.shape, v.shape) == ((18, 32), (9, 16), (9, 16))


def test_frame_and_frame_planes_are_inverse():
    clip = random_clip(2, 18, 34)
    for index in range(2):
        y, u, v = frame_planes(clip.frame(index))
        assert np.array_equal(y, clip.y[index])
        assert np.array_equal(u, clip.u[index])
        assert np.array_equal(v, clip.v[index])


def test_a_clip_has_sizes_and_timestamps():
    clip = random_clip(3, 16, 32, fps=Fraction(24))
    assert (clip.num_frames, clip.height, clip.width) == (3, 16, 32)
    assert clip.timestamps == (Fraction(0), Fraction(1, 24), Fraction(1, 12))


@pytest.mark.parametrize(
    ("num_frames", "count", "indices"),
    [(150, 5, [15, 45, 75, 105, 135]), (3, 1, [1]), (3, 3, [0, 1, 2]), (4, 3, [0, 2, 3])],
)
def test_evenly_spaced_indices_are_the_centers_of_equal_intervals(num_frames, count, indices):
    assert evenly_spaced_indices(num_frames, count) == indices


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((2, 23, 16), np.uint8)}, "even H and W"),
        ({"frames": np.zeros((2, 24, 15), np.uint8)}, "even H and W"),
        ({"frames": np.zeros((24, 16), np.uint8)}, "must be"),
        ({"frames": np.zeros((0, 24, 16), np.uint8)}, "must be"),
        ({"frames": np.zeros((2, 24, 16), np.uint16)}, "uint16"),
        ({"frames": np.zeros((2, 24, 32), np.uint8)[:, :, ::2]}, "contiguous"),
        ({"timestamps": (Fraction(0),)}, "2 frames but 1 timestamps"),
        ({"fps": Fraction(0)}, "above 0"),
    ],
)
def test_inconsistent_frames_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(random_clip(2), **change)


@pytest.mark.parametrize(
    "planes",
    [
        [],
        [((15, 16), (7, 8), (7, 8))],
        [((16, 16), (16, 16), (8, 8))],
        [((16, 16), (8, 8), (8, 8)), ((16, 18), (8, 9), (8, 9))],
    ],
)
def test_planes_of_other_shapes_are_refused(planes):
    arrays = [tuple(np.zeros(shape, np.uint8) for shape in frame) for frame in planes]
    with pytest.raises(ValueError, match=r"even|shape"):
        Clip.from_planes(arrays, [Fraction(index) for index in range(len(arrays))], NTSC)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 15, 16, 3), np.uint8),
        np.zeros((1, 16, 17, 3), np.uint8),
        np.zeros((0, 16, 16, 3), np.uint8),
        np.zeros((1, 16, 16, 4), np.uint8),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((1, 16, 16, 3), np.float32),
    ],
)
def test_from_rgb_refuses_arrays_of_other_shape_or_dtype(frames):
    with pytest.raises(ValueError, match="frames"):
        Clip.from_rgb(frames, NTSC)


def test_rgb_resizes_to_any_size():
    clip = moving_clip(1, 48, 64)
    assert clip.rgb(0).shape == (48, 64, 3)
    assert clip.rgb(0, width=21, height=13).shape == (13, 21, 3)
    assert clip.rgb(-1, width=128, height=96).shape == (96, 128, 3)


def test_clip_rgb_and_resize_rgb_use_the_same_scaler():
    rgb = np.repeat(moving_clip(1, 48, 64).y[0][..., None], 3, axis=2)  # gray: no chroma planes
    clip = Clip.from_rgb(rgb[None], NTSC)
    direct = clip.rgb(0, width=32, height=24).astype(int)
    # The clip rounds once more, to one of 219 luma steps.
    assert np.abs(direct - resize_rgb(rgb, width=32, height=24)).max() <= 2


def test_resize_rgb_agrees_with_pillows_bicubic():
    rgb = moving_clip(1, 48, 64).rgb(0)
    ours = resize_rgb(rgb, width=32, height=24).astype(int)
    theirs = np.asarray(Image.fromarray(rgb).resize((32, 24), Image.Resampling.BICUBIC))
    # The kernels differ in their parameter (-0.6 against -0.5) and in how they treat borders.
    assert np.abs(ours - theirs).mean() < 0.5
    assert np.abs(ours - theirs).max() <= 8


def test_shrinking_does_not_alias():
    stripes = np.zeros((32, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the result can show: it must become gray
    shrunk = resize_rgb(stripes, width=16, height=8)[:, 2:-2]
    assert np.abs(shrunk.astype(int) - 127).max() <= 6


@settings(deadline=None)
@given(
    rgb=st.tuples(code_values, code_values, code_values),
    width=st.integers(8, 40),
    height=st.integers(8, 40),
)
def test_resizing_a_flat_color_keeps_it_exactly(rgb, width, height):
    resized = resize_rgb(np.full((18, 26, 3), rgb, np.uint8), width=width, height=height)
    assert np.array_equal(resized, np.full((height, width, 3), rgb, np.uint8))


def test_channels_are_resized_separately():
    rgb = moving_clip(1, 48, 64).rgb(0)
    turned = resize_rgb(rgb[..., ::-1], width=32, height=24)
    assert np.array_equal(turned[..., ::-1], resize_rgb(rgb, width=32, height=24))


def test_resizing_to_the_same_size_is_a_copy():
    rgb = moving_clip(1).rgb(0)
    same = resize_rgb(rgb, width=rgb.shape[1], height=rgb.shape[0])
    assert np.array_equal(same, rgb)
    assert not np.shares_memory(same, rgb)


def test_resize_rgb_refuses_other_dtypes():
    with pytest.raises(ValueError, match="float64"):
        resize_rgb(np.zeros((4, 4, 3)), width=2, height=2)


@pytest.mark.parametrize(
    ("number", "location"),  # ITU-T H.264, figure E-1
    [*enumerate(["left", "center", "topleft", "top", "bottomleft", "bottom"])],
)
def test_the_chroma_location_of_a_stream_is_honored(number, location):
    clip = moving_clip(2, 48, 64)
    stream = muxed(clip, "matroska", **{"x264-params": f"qp=1:chromaloc={number}"})
    frame = list(av.open(io.BytesIO(stream)).decode(video=0))[1]
    # FFmpeg's own conversion of the decoder's frame, which states the location.
    expected = frame.reformat(
        format="rgb24",
        src_colorspace="ITU709",
        src_color_range="MPEG",
        dst_color_range="JPEG",
        interpolation=SCALER_FLAGS,
    ).to_ndarray()
    difference = np.abs(decode(stream).rgb(1) - expected.astype(int))
    assert difference.max() == 0
    assert decode(stream).color.chroma_location == location


@pytest.mark.parametrize(
    ("width", "height", "matrix"),
    [(720, 576, "bt601"), (720, 480, "bt601"), (640, 360, "bt709"), (1280, 720, "bt709")],
)
def test_an_unspecified_matrix_is_that_of_television_at_its_sizes(width, height, matrix):
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, value in zip(frame.planes, (120, 100, 160), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    expected = to_ycbcr(to_rgb((120, 100, 160), matrix))
    assert np.abs(planes_center(to_420(frame)) - expected).max() <= 1


@pytest.mark.parametrize("height", [48, 50])
def test_frames_are_views_where_pyav_can(height):
    clip = random_clip(2, height, 64)
    frame = clip.frame(1)
    assert np.shares_memory(frame_planes(frame)[0], clip.frames) == (height % 4 == 0)
    before, expected = clip.frames.copy(), clip.y[1].copy()
    clip.rgb_frames(width=32, height=32)
    encode_h264(clip, qp=30)
    assert np.array_equal(clip.frames, before)
    # The frame keeps its memory alive.
    del clip
    gc.collect()
    assert np.array_equal(frame_planes(frame)[0], expected)


@pytest.mark.parametrize(
    ("container", "codec", "pixel_format", "location"),
    [
        ("avi", "mjpeg", "yuvj420p", "center"),  # JFIF
        ("matroska", "mpeg1video", "yuv420p", "center"),  # ISO/IEC 11172-2
        ("matroska", "mpeg2video", "yuv420p", "left"),  # ISO/IEC 13818-2
        ("avi", "mpeg4", "yuv420p", "left"),
        ("avi", "ffv1", "yuv420p", "left"),  # unspecified
        ("avi", "ffv1", "yuv444p", "left"),  # converted
    ],
)
def test_each_format_has_its_chroma_location(container, codec, pixel_format, location):
    clip = moving_clip(1, fps=Fraction(25))
    stream = muxed(clip, container, codec=codec, pixel_format=pixel_format)
    assert decode(stream).color.chroma_location == location


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_colors_stay_in_place_when_frames_are_rotated(degrees, tmp_path):
    clip = moving_clip(1, 64, 96)
    before, after = (
        decode(muxed(clip, "mp4", rotation=each, folder=tmp_path)) for each in (0, degrees)
    )
    turned = np.rot90(before.rgb(0), degrees // 90).astype(int)
    # What another resampling of chroma costs; moved by half a pixel, it would be 0.9.
    assert np.abs(after.rgb(0) - turned).mean() < 0.6
