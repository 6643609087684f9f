"""Footage, bundled photographs or a user's files, and the takes that are cut from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import ExifTags, ImageOps

from beam_pipelines.rejects import FILE, Reject
from laser_dist.errors import UserError
from laser_dist.simulation.camera import Shot, draw_shot, film
from laser_dist.simulation.excerpt import Excerpt, draw_excerpt, read_excerpt, video_extent
from laser_dist.simulation.observers import Panel
from laser_dist.simulation.visibility import MaskingModel
from laser_dist.storage import list_files
from laser_dist.video.containers import MIN_SIZE, VideoError
from laser_dist.video.frames import UInt8Array
from laser_dist.video.images import open_image

# Photographs only: no charts, text, drawings, medical or microscope images, and one half of a
# stereo pair. Listed by name, so that a package's next release does not change the dataset.
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
      group_id: common to all clips cut from it; splits keep a group together.
      path: path of the file.
      is_video: whether it is a video, not a photograph to be filmed.
    """

    group_id: str
    path: Path
    is_video: bool


@dataclass(frozen=True)
class Take:
    """One source to make: a shot of a photograph, or an excerpt from a video."""

    source_index: int
    footage: Footage
    cut: Shot | Excerpt


@dataclass(frozen=True, kw_only=True)
class SyntheticSettings:
    """Settings that all kinds of synthetic datasets share.

    Attributes:
      num_sources: number of sources, spread evenly over the footage, 1 to `MAX_SOURCES`.
      width: width of the frames, in pixels; even, at least 16.
      height: height of the frames, in pixels; even, at least 16.
      num_frames: frames per source, at least 1.
      seed: seed of takes, viewers and their trials, at least 0; replaces the panel's own.
      panel: the simulated viewers.
      masking: what hides errors from them.

    Raises:
      UserError: a value outside its range.
    """

    MAX_SOURCES: ClassVar[int]

    num_sources: int
    width: int = 256
    height: int = 144
    num_frames: int = 1
    seed: int = 0
    panel: Panel = field(default_factory=Panel)
    masking: MaskingModel = field(default_factory=MaskingModel)

    def __post_init__(self) -> None:
        most = self.MAX_SOURCES
        expect(1 <= self.num_sources <= most, "num_sources", f"1 to {most}", self.num_sources)
        for name in ("width", "height"):
            side = getattr(self, name)
            expect(side >= MIN_SIZE and side % 2 == 0, name, f"even, at least {MIN_SIZE}", side)
        expect(self.num_frames >= 1, "num_frames", "1 or more", self.num_frames)
        expect(self.seed >= 0, "seed", "0 or more", self.seed)


def expect(holds: bool, what: str, rule: str, value: object) -> None:
    """Raise `UserError` if a setting violates its rule."""
    if not holds:
        raise UserError(f"Setting {what} must be {rule}, not {value}.")


def draw_takes(footage: Sequence[Footage], settings: SyntheticSettings) -> tuple[Take, ...]:
    """Draw every take; take i does not depend on the number of takes.

    Args:
      footage: at least one; takes cycle through it.
      settings: settings of the dataset.

    Raises:
      VideoError: a photograph is damaged, or a video truncated or too short for a take.
    """
    return tuple(
        _draw_take(index, footage[(index - 1) % len(footage)], settings)
        for index in range(1, settings.num_sources + 1)
    )


def _draw_take(index: int, footage: Footage, settings: SyntheticSettings) -> Take:
    rng = np.random.default_rng([settings.seed, 2, index])
    aspect = settings.width / settings.height
    if footage.is_video:
        return Take(index, footage, draw_excerpt(rng, footage.path, aspect, settings.num_frames))
    width, height = photo_size(footage.path)
    return Take(index, footage, draw_shot(rng, width, height, aspect))


def take_frames(take: Take, settings: SyntheticSettings) -> UInt8Array:
    """Film or cut one take: [T, height, width, 3] uint8 RGB.

    Raises:
      VideoError: the footage is damaged within the take.
    """
    size = {"width": settings.width, "height": settings.height}
    if isinstance(take.cut, Excerpt):
        return read_excerpt(take.footage.path, take.cut, num_frames=settings.num_frames, **size)
    photo = load_photo(take.footage.path)
    return film(photo, take.cut, num_frames=settings.num_frames, **size)


def shipped_photographs() -> tuple[Footage, ...]:
    """Return the photographs in the wheels of scikit-image and scikit-learn, in fixed order."""
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
    """Find the photographs below a folder, by name, and reject all other files.

    Raises:
      UserError: the folder is missing, or holds no usable photograph.
    """
    return _footage_below(folder, "photograph", _photo_problem, is_video=False)


def videos_in(folder: Path, *, min_frames: int) -> tuple[tuple[Footage, ...], tuple[Reject, ...]]:
    """Find the complete videos of `min_frames` or more below a folder; reject all other files.

    Raises:
      UserError: the folder is missing, or holds no usable video.
    """
    problem_of = partial(_video_problem, min_frames=min_frames)
    return _footage_below(folder, "video", problem_of, is_video=True)


def load_photo(path: Path) -> np.ndarray:
    """Load an image file, turned upright as its EXIF block asks: [H, W, 3] uint8 RGB.

    Gray of 16 bits is scaled to 8.

    Raises:
      VideoError: the file is missing, not an image, or damaged.
    """
    name = f"photograph {path}"
    with open_image(path, name) as image:
        upright = ImageOps.exif_transpose(image)
        if not upright.mode.startswith("I"):
            return np.asarray(upright.convert("RGB"))
        # 16 bits, of which Pillow would clip what is above 8.
        gray = np.asarray(upright, np.int64)
    if gray.min() < 0 or gray.max() >= 1 << 16:
        raise VideoError(
            f"{name} has more than 16 bits per sample.", hint="Convert it to 8 or 16 bits."
        )
    eight_bits = ((gray * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(eight_bits[..., None], 3, axis=2)


def photo_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of what `load_photo` returns, from the header only.

    Raises:
      VideoError: the file is missing, not an image, or its header is damaged.
    """
    with open_image(path, f"photograph {path}") as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED_BY_A_QUARTER
    return (height, width) if turned else (width, height)


def _footage_below(
    folder: Path, what: str, problem_of: Callable[[Path], str | None], *, is_video: bool
) -> tuple[tuple[Footage, ...], tuple[Reject, ...]]:
    if not folder.is_dir():
        raise UserError(f"The {what} folder {folder} does not exist.", hint="Check the path.")
    found: list[Footage] = []
    rejects: list[Reject] = []
    for path in sorted(Path(file.location) for file in list_files(folder)):
        problem = problem_of(path)
        if problem is None:
            group_id = path.relative_to(folder).with_suffix("").as_posix()
            found.append(Footage(group_id, path, is_video=is_video))
        else:
            rejects.append(Reject(what=FILE, where=str(path), stage="find", why=problem))
    if not found:
        example = f", such as {rejects[0]}" if rejects else ""
        raise UserError(
            f"{folder} holds no {what} of {MIN_SIDE_PX}x{MIN_SIDE_PX} pixels or more, but "
            f"{len(rejects)} other files{example}.",
            hint=f"Name another folder with --{what.removesuffix('graph')}s.",
        )
    return tuple(found), tuple(rejects)


def _photo_problem(path: Path) -> str | None:
    try:
        with open_image(path, f"photograph {path}") as image:
            problem = _size_problem(*image.size)
            if problem is None:
                image.load()  # a truncated file has a complete header
            return problem
    except VideoError as error:
        return error.message.replace(f"photograph {path}", "it")


def _video_problem(path: Path, *, min_frames: int) -> str | None:
    try:
        width, height, num_frames = video_extent(path)
    except VideoError as error:
        return error.message
    if num_frames == 1:
        return "a still image"
    if num_frames < min_frames:
        return f"{num_frames} frames, fewer than {min_frames}"
    return _size_problem(width, height)


def _size_problem(width: int, height: int) -> str | None:
    if min(width, height) >= MIN_SIDE_PX:
        return None
    return f"{width}x{height} pixels, smaller than {MIN_SIDE_PX}"
