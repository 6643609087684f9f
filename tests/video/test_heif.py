"""Photographs of tiles are one picture, as libavif puts it together; and are cropped."""

import contextlib
import io
import struct

import numpy as np
import pytest
from heif_files import box, grid_image
from PIL import Image, ImageOps

from laser_dist.video.containers import VideoError
from laser_dist.video.facts import clip_facts
from laser_dist.video.sampling import sample_frames

ROWS, COLUMNS = np.mgrid[:150, :200]
RGB = np.dstack([COLUMNS, ROWS, (ROWS + COLUMNS) // 2]).astype(np.uint8)
MIRROR, ROTATE = box(b"imir", b"\1"), box(b"irot", b"\1")


def clean_aperture(width, height, right, down):
    """Return a crop whose center is moved by this much, in pixels (ISO/IEC 14496-12, 12.1.4)."""
    return box(b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, right, 1, down, 1))


def shown(content, width, height):
    (only,) = sample_frames(content, num_frames=8, width=width, height=height)
    return only.rgb.astype(int)


@pytest.mark.parametrize("in_meta", [True, False])
@pytest.mark.parametrize("properties", [(), (MIRROR,), (ROTATE,), (ROTATE, MIRROR)])
def test_tiles_are_put_together_as_by_pillow(in_meta, properties):
    content = grid_image(RGB, rows=2, columns=3, tile=80, properties=properties, in_meta=in_meta)
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    facts = clip_facts(content)
    assert (facts.width, facts.height, facts.duration_s) == (*picture.size, 0)
    # Without a tile or a turn, the mean difference is over 20.
    assert np.abs(shown(content, *picture.size) - np.asarray(picture)).mean() < 1.5


@pytest.mark.parametrize("primary", [1, 2])
def test_a_photograph_is_cropped_to_its_clean_aperture(primary):
    """Of 150x150 pixels the middle 140x100, moved by 5 to the left and 10 down."""
    square = RGB[:, :150]
    crop = clean_aperture(140, 100, -5, 10)
    content = grid_image(square, rows=1, columns=1, tile=150, properties=(crop,), primary=primary)
    assert np.abs(shown(content, 140, 100) - square[35:135, :140]).mean() < 1.5


@pytest.mark.parametrize("turned", [False, True])
def test_a_transparent_picture_is_laid_over_white_as_by_pillow(turned):
    alpha = np.clip(3 * COLUMNS - 150, 0, 255).astype(np.uint8)  # clear, a ramp, and opaque
    file = io.BytesIO()
    rgba = Image.fromarray(np.dstack([RGB, alpha]))
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6  # libavif writes the turn as a property of both planes
    rgba.save(file, "AVIF", quality=95, subsampling="4:4:4", exif=exif)
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue())))
    assert picture.mode == "RGBA"
    expected = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    found = shown(file.getvalue(), *picture.size)
    assert np.abs(found - np.asarray(expected.convert("RGB"))).mean() < 1.5
    facts = clip_facts(file.getvalue())
    assert (facts.width, facts.height) == picture.size


def test_a_transparent_animation_stays_a_video():
    pictures = [
        Image.fromarray(np.dstack([RGB // 2 + 25 * number, np.full_like(ROWS, 200, np.uint8)]))
        for number in range(5)
    ]
    file = io.BytesIO()
    pictures[0].save(file, "AVIF", save_all=True, append_images=pictures[1:], duration=200)
    assert clip_facts(file.getvalue()).duration_s > 0
    frames = sample_frames(file.getvalue(), num_frames=9, width=200, height=150)
    means = [frame.rgb.mean() for frame in frames]
    assert len(means) == 5
    assert means == sorted(means)


def test_another_composition_is_refused():
    content = grid_image(RGB, rows=2, columns=3, tile=80, kind=b"iovl")
    with pytest.raises(VideoError, match="made of parts in a way that laser-jnd does not read"):
        shown(content, 200, 150)


def test_a_grid_whose_tiles_do_not_all_decode_is_refused():
    content = bytearray(grid_image(RGB, rows=2, columns=3, tile=80))
    content[-200:] = bytes(200)
    with pytest.raises(VideoError):
        shown(bytes(content), 200, 150)


def test_a_damaged_description_gives_a_picture_or_an_error():
    content = grid_image(RGB, rows=2, columns=3, tile=80, properties=(ROTATE,))
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for position in rng.integers(8, 700, 3):
            damaged[position] = rng.integers(256)
        with contextlib.suppress(VideoError):
            assert shown(bytes(damaged), 32, 32).shape == (32, 32, 3)
