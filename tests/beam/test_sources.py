from functools import partial
from pathlib import Path

import numpy as np
import pytest
import skimage.util
from PIL import Image

from beam_pipelines.synthetic.footage import (
    load_photo,
    photo_size,
    photographs_in,
    shipped_photographs,
    videos_in,
)
from laser_dist.errors import UserError
from laser_dist.jnd.videoset_layout import FRAME_RATES
from laser_dist.video.codec import encode_h264
from laser_dist.video.containers import VideoError
from laser_dist.video.frames import Clip


def save(path, *, width=160, height=130, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_bundled_photographs_exist_and_are_large_enough():
    shipped = shipped_photographs()
    assert len({footage.group_id for footage in shipped}) == len(shipped) >= 15
    assert all(min(photo_size(footage.path)) >= 128 for footage in shipped)


def test_photographs_are_found_by_name_and_other_files_rejected(tmp_path):
    save(tmp_path / "b" / "sea.jpg")
    save(tmp_path / "a.png")
    save(tmp_path / "icon.png", width=32, height=32)
    (tmp_path / "notes.txt").write_text("no image")
    whole = save(tmp_path / "z.png").read_bytes()
    (tmp_path / "z.png").write_bytes(whole[: len(whole) // 2])
    found, rejects = photographs_in(tmp_path)
    assert [footage.group_id for footage in found] == ["a", "b/sea"]
    assert [(r.where.rpartition("/")[2], r.why[:16]) for r in rejects] == [
        ("icon.png", "32x32 pixels, sm"),
        ("notes.txt", "Cannot decode it"),
        ("z.png", "Cannot decode it"),
    ]


def test_a_rotated_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    path = save(tmp_path / "phone.jpg", exif=exif)
    assert photo_size(path) == (130, 160)
    assert load_photo(path).shape == (160, 130, 3)


def test_gray_and_transparent_images_become_rgb(tmp_path):
    Image.new("LA", (8, 4), (200, 0)).save(tmp_path / "gray.png")
    assert load_photo(tmp_path / "gray.png").shape == (4, 8, 3)


def test_short_truncated_and_still_videos_are_rejected(tmp_path):
    rate = FRAME_RATES[30]
    noise = np.random.default_rng(0).integers(0, 256, (6, 128, 128, 3), np.uint8)
    whole = encode_h264(Clip.from_rgb(noise, rate), qp=30)
    (tmp_path / "whole.264").write_bytes(whole)
    (tmp_path / "cut.264").write_bytes(whole[: len(whole) * 3 // 5])
    (tmp_path / "short.264").write_bytes(encode_h264(Clip.from_rgb(noise[:3], rate), qp=30))
    Image.fromarray(noise[0]).save(tmp_path / "still.png")
    found, rejects = videos_in(tmp_path, min_frames=6)
    assert [footage.group_id for footage in found] == ["whole"]
    reasons = {Path(reject.where).name: reject.why for reject in rejects}
    assert set(reasons) == {"cut.264", "short.264", "still.png"}
    assert reasons["short.264"] == "3 frames, fewer than 6"
    assert reasons["still.png"] == "a still image"


@pytest.mark.parametrize("find", [photographs_in, partial(videos_in, min_frames=4)])
def test_a_folder_without_usable_files_is_an_error(tmp_path, find):
    (tmp_path / "notes.txt").write_text("neither")
    with pytest.raises(UserError, match="holds no .* of 128x128 pixels or more, but 1 other file"):
        find(tmp_path)
    with pytest.raises(UserError, match="none does not exist"):
        find(tmp_path / "none")


@pytest.mark.parametrize("name", ["deep.png", "deep.pgm", "deep.tiff"])
def test_gray_of_16_bits_is_scaled_as_scikit_image_does(tmp_path, name):
    deep = np.linspace(0, 65535, 32 * 40).astype(np.uint16).reshape(32, 40)
    Image.fromarray(deep).save(tmp_path / name)
    loaded = load_photo(tmp_path / name)
    assert loaded.shape == (32, 40, 3)
    for channel in range(3):
        off = loaded[..., channel].astype(int) - skimage.util.img_as_ubyte(deep)
        assert np.abs(off).max() <= 1  # it rounds down
    Image.fromarray(np.full((32, 40), 70000, np.int32)).save(tmp_path / "deeper.tiff")
    with pytest.raises(VideoError, match=r"has more than 16 bits per sample"):
        load_photo(tmp_path / "deeper.tiff")


@pytest.mark.parametrize("read", [load_photo, photo_size])
def test_a_photograph_damaged_later_is_a_video_error(read, tmp_path):
    path = save(tmp_path / "photo.png")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(VideoError, match=r"Cannot decode photograph .*photo\.png"):
        read(path)
