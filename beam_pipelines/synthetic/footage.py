"""Where pixels come from: photographs that Python packages ship, and a user's own files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from beam_pipelines.rejects import Reject
from laser_dist.errors import UserError
from laser_dist.simulation.excerpt import video_extent
from laser_dist.video.containers import VideoError
from laser_dist.video.jpeg import PILLOW_ERRORS

# Photographs only: no charts, text, drawings, medical or microscope images, and of a stereo pair
# one half. Named, so that a package's next release does not change the synthetic dataset silently.
SKIMAGE_PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
SKLEARN_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
MIN_SIDE_PX = 128

_TURNED_BY_A_QUARTER = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass(frozen=True)
class Footage:
    """A photograph or a video that clips are cut from.

    Attributes:
      group_id: what every clip cut from it has in common; splits keep it whole.
      path: of the file.
      is_video: real motion, or a still to film.
    """

    group_id: str
    path: Path
    is_video: bool


def shipped_photographs() -> tuple[Footage, ...]:
    """The photographs in scikit-image's and scikit-learn's wheels, in fixed order."""
    import skimage
    import sklearn

    folders = (
        (Path(skimage.__path__[0]) / "data", SKIMAGE_PHOTOGRAPHS),
        (Path(sklearn.__path__[0]) / "datasets" / "images", SKLEARN_PHOTOGRAPHS),
    )
    return tuple(
        Footage(Path(name).stem, folder / name, is_video=False)
        for folder, names in folders
        for name in names
    )


def photographs_in(folder: Path) -> tuple[tuple[Footage, ...], tuple[Reject, ...]]:
    """Photographs below a folder, by name, and the files there that are none.

    Raises:
      UserError: no such folder, or nothing in it that can be used.
    """
    return _footage_below(folder, "photograph", _photo_fault, is_video=False)


def videos_in(folder: Path, *, min_frames: int) -> tuple[tuple[Footage, ...], tuple[Reject, ...]]:
    """Whole videos of `min_frames` or more below a folder, by name, and the files that are none.

    Raises:
      UserError: no such folder, or nothing in it that can be used.
    """
    fault_of = partial(_video_fault, min_frames=min_frames)
    return _footage_below(folder, "video", fault_of, is_video=True)


def load_photo(path: Path) -> np.ndarray:
    """[H, W, 3] uint8 RGB of an image file, turned upright as its EXIF block asks.

    Raises:
      VideoError: the file is missing, no image, or damaged.
    """
    with _opened(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def photo_size(path: Path) -> tuple[int, int]:
    """(width, height) of what `load_photo` gives, from the header alone.

    Raises:
      VideoError: the file is missing, no image, or damaged where it was read.
    """
    with _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED_BY_A_QUARTER
    return (height, width) if turned else (width, height)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except PILLOW_ERRORS as error:
        raise VideoError(
            f"Photograph {path}", "a whole image", str(error), "Mend it, or leave it out."
        ) from error


def _footage_below(
    folder: Path, what: str, fault_of: Callable[[Path], str | None], *, is_video: bool
) -> tuple[tuple[Footage, ...], tuple[Reject, ...]]:
    if not folder.is_dir():
        raise UserError(f"Folder of {what}s {folder}", "a folder", "none there", "Check the path.")
    found: list[Footage] = []
    rejects: list[Reject] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        fault = fault_of(path)
        if fault is None:
            group_id = path.relative_to(folder).with_suffix("").as_posix()
            found.append(Footage(group_id, path, is_video=is_video))
        else:
            rejects.append(Reject(what="file", where=str(path), stage="find", why=fault))
    if not found:
        raise UserError(
            f"Folder of {what}s {folder}",
            f"at least one {what} of {MIN_SIDE_PX} pixels or more on each side",
            f"{len(rejects)} other files" + (f", such as {rejects[0]}" if rejects else ""),
            f"Name another folder with --{what.removesuffix('graph')}s.",
        )
    return tuple(found), tuple(rejects)


def _photo_fault(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            fault = _size_fault(*image.size)
            if fault is None:
                image.load()  # the header of a file cut short is whole
            return fault
    except PILLOW_ERRORS as error:
        return f"not a whole image ({error})"


def _video_fault(path: Path, *, min_frames: int) -> str | None:
    try:
        width, height, num_frames = video_extent(path)
    except VideoError as error:
        return str(error)
    if num_frames == 1:
        return "a still image"
    if num_frames < min_frames:
        return f"{num_frames} frames, fewer than {min_frames}"
    return _size_fault(width, height)


def _size_fault(width: int, height: int) -> str | None:
    if min(width, height) >= MIN_SIDE_PX:
        return None
    return f"{width}x{height} pixels, smaller than {MIN_SIDE_PX}"
