import io
import re
from fractions import Fraction

import numpy as np
import pytest
from ffmpeg_scores import printed_by
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from video_clips import moving_clip, random_clip

from laser_dist.video.codec import decode, encode_h264, frame_size
from laser_dist.video.containers import VideoError
from laser_dist.video.frames import Clip
from laser_dist.video.images import encode_jpeg, jpeg_encoder
from laser_dist.video.quality import measure_quality

RGB = moving_clip(1, height=48, width=64).rgb(0)


def bmp(rgb):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "BMP")
    return file.getvalue()


def opened(jpeg):
    return Image.open(io.BytesIO(jpeg))


def test_the_same_image_gives_the_same_baseline_420_file():
    jpeg = encode_jpeg(RGB, quality=75)
    assert encode_jpeg(RGB, quality=75) == jpeg
    image = opened(jpeg)
    assert image.size == (64, 48)
    assert not image.info.get("progressive")
    # (id, horizontal sampling, vertical sampling, table): luma twice as dense as chroma.
    assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize(("quality", "luma_dc_step"), [(100, 1), (75, 8), (50, 16), (25, 32)])
def test_the_quantizer_is_the_scaled_standard_table(quality, luma_dc_step):
    # The table's first entry is 16; below 50 it is multiplied by 50 / quality, from 50 on by
    # 2 - quality / 50, and at least 1.
    assert opened(encode_jpeg(RGB, quality=quality)).quantization[0][0] == luma_dc_step


def test_a_lower_quality_gives_fewer_bytes_and_larger_errors():
    coded = [encode_jpeg(RGB, quality=quality) for quality in (100, 60, 20, 1)]
    assert sorted(map(len, coded), reverse=True) == list(map(len, coded))
    errors = [np.abs(decode(jpeg).rgb(0) - RGB.astype(int)).mean() for jpeg in coded]
    assert sorted(errors) == errors


@pytest.mark.parametrize("quality", [100, 50, 5])
def test_decoded_colors_agree_with_pillow(quality):
    jpeg = encode_jpeg(RGB, quality=quality)
    theirs = np.asarray(opened(jpeg).convert("RGB")).astype(int)
    difference = decode(jpeg).rgb(0) - theirs
    # A wrong matrix or range would move a channel's mean by several code values. What remains is
    # rounding and another interpolation of chroma.
    assert np.abs(difference.mean(axis=(0, 1))).max() < 0.5
    assert np.abs(difference).mean() < 1.5


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
def test_the_luma_of_a_jpeg_is_kept_in_its_own_domain(subsampling):
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", quality=70, subsampling=subsampling)
    # FFmpeg's inverse DCT and libjpeg's round differently.
    assert np.abs(decode(file.getvalue()).y[0] - pillows_luma(file.getvalue())).max() <= 1


def pillows_luma(jpeg):
    """Return luma as libjpeg decodes it, without a conversion to RGB."""
    image = opened(jpeg)
    image.draft("YCbCr", None)
    return np.asarray(image)[..., 0].astype(int)


def test_the_psnr_of_a_jpeg_is_that_of_its_own_luma():
    jpegs = [encode_jpeg(RGB, quality=quality) for quality in (100, 30)]
    expected = peak_signal_noise_ratio(*map(pillows_luma, jpegs), data_range=255)
    reference, distorted = map(decode, jpegs)
    rgb = {"reference_rgb": reference.rgb_frames(width=64, height=48)}
    rgb["distorted_rgb"] = distorted.rgb_frames(width=64, height=48)
    # In limited range, the error would be 255 / 219 times smaller: 1.3 dB more.
    quality = measure_quality(reference, distorted, **rgb)
    assert quality.psnr_y_db == pytest.approx(expected, abs=0.05)


def test_jpegs_of_odd_size_have_ffmpegs_scores(tmp_path):
    rgb = np.ascontiguousarray(moving_clip(1, 66, 90).rgb(0)[:65, :89])
    paths = [tmp_path / "reference.jpg", tmp_path / "distorted.jpg"]
    for path, quality in zip(paths, (100, 30), strict=True):
        path.write_bytes(encode_jpeg(rgb, quality=quality))
    reference, distorted = map(decode, paths)
    sizes = [clip.rgb_frames(width=64, height=48) for clip in (reference, distorted)]
    found = measure_quality(reference, distorted, reference_rgb=sizes[0], distorted_rgb=sizes[1])
    # FFmpeg reads the files itself, in full range; their last row and column are left out.
    first, second = (f"movie={path},crop=88:64:0:0" for path in paths)
    for name, value in (("psnr", found.psnr_y_db), ("ssim", found.ssim)):
        _, text = printed_by(f"{second}[a];{first}[b];[a][b]{name}[out0]")
        assert value == pytest.approx(float(re.search(r"[yY]:([\d.]+)", text)[1]), abs=1e-5)


def test_a_jpeg_is_neither_measured_against_nor_encoded_as_video():
    jpeg, video = decode(encode_jpeg(RGB, quality=90)), Clip.from_rgb(RGB[None], Fraction(1))
    rgb = RGB[None]
    with pytest.raises(ValueError, match="agree in"):
        measure_quality(jpeg, video, reference_rgb=rgb, distorted_rgb=rgb)
    with pytest.raises(ValueError, match="like a video"):
        encode_h264(jpeg, qp=30)


def test_a_bitmap_keeps_its_colors():
    smooth = moving_clip(1, height=48, width=64).rgb(0)
    difference = decode(bmp(smooth)).rgb(0) - smooth.astype(int)
    assert np.abs(difference.mean(axis=(0, 1))).max() < 0.5
    flat = np.zeros((32, 32, 3), np.uint8) + np.array([200, 60, 30], np.uint8)
    assert np.abs(decode(bmp(flat)).rgb(0) - flat.astype(int)).max() <= 2


@pytest.mark.parametrize("coded", [bmp, lambda rgb: encode_jpeg(rgb, quality=90)])
def test_odd_sizes_are_cropped_to_even(coded, tmp_path):
    path = tmp_path / "odd"
    path.write_bytes(coded(np.ascontiguousarray(RGB[:33, :19])))
    assert decode(path).y.shape == (1, 32, 18)
    assert frame_size(path) == (18, 32)


@pytest.mark.parametrize("coded", [bmp, lambda rgb: encode_jpeg(rgb, quality=50)])
@pytest.mark.parametrize("missing", [1, 2, 3, 20, 60, 400])
def test_a_truncated_image_is_an_error(coded, missing):
    whole = coded(random_clip(1, height=48, width=64).rgb(0))
    with pytest.raises(VideoError, match="Replace it with a complete copy"):
        decode(whole[:-missing])


def test_the_end_marker_of_a_thumbnail_does_not_count():
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", comment=b"like a thumbnail \xff\xda pixels \xff\xd9")
    assert file.getvalue().count(b"\xff\xd9") == 2
    assert decode(file.getvalue()).num_frames == 1
    with pytest.raises(VideoError, match="no JPEG end marker"):
        decode(file.getvalue()[:-2])


def test_data_after_an_image_is_ignored():
    jpeg = encode_jpeg(RGB, quality=50)
    assert np.array_equal(decode(jpeg + b"\0" * 7 + b"appended").y, decode(jpeg).y)


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_out_of_range_is_refused(quality):
    with pytest.raises(ValueError, match=f"quality must be in 1..100, got {quality}"):
        encode_jpeg(RGB, quality=quality)


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match="rgb must be uint8"):
        encode_jpeg(RGB[..., 0], quality=50)
    with pytest.raises(ValueError, match="rgb must be uint8"):
        encode_jpeg(RGB.astype(np.float32), quality=50)


def test_the_encoder_has_a_name_and_a_version():
    name, version = jpeg_encoder()
    assert name.startswith("libjpeg")
    assert version[0].isdigit()
