"""A virtual camera: short moving clips of a still photograph."""

# NumPy's stubs leave the type of functions of one number open.
# pyright: reportUnknownArgumentType=false

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from laser_dist.video.frames import UInt8Array

# 180 degree shutter, as usual in cinematography: light is gathered for half of the frame time.
SHUTTER = 0.5
# Largest step between sub-exposures, in output pixels.
EXPOSURE_STEP_PX = 1.0
MAX_EXPOSURES = 8
MID_GRAY = 118.0  # code value of an 18% gray card in sRGB
METER_RANGE = (0.4, 2.5)  # factors on code values; a night sky stays dark

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in photograph pixels."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One take of the virtual camera; lengths in photograph pixels, times in frames.

    Attributes:
      center_x: center of the window at mid-clip.
      center_y: the same, vertical.
      window_width: width of the window at mid-clip; its height follows the clip's aspect.
      pan_x: horizontal movement per frame.
      pan_y: vertical movement per frame.
      zoom: factor on the window size per frame (1 = none, below 1 = zooming in).
      shake: standard deviation of random hand movement per frame.
      exposure: factor on code values.
      metered: whether auto exposure first brings the window at mid-clip to mid gray.
      contrast: factor on the distance from mid gray; low in haze and in a flat camera profile.
      tint: white balance, factors on red, green and blue.
      defocus: standard deviation of the Gaussian blur, in output pixels.
      grain: standard deviation of sensor noise in code values, independent per frame.
      mirrored: whether left and right are exchanged.
      seed: random seed for shake and grain.
    """

    center_x: float
    center_y: float
    window_width: float
    pan_x: float
    pan_y: float
    zoom: float
    shake: float
    exposure: float
    metered: bool
    contrast: float
    tint: tuple[float, float, float]
    defocus: float
    grain: float
    mirrored: bool
    seed: int


def draw_shot(rng: np.random.Generator, photo_width: int, photo_height: int, aspect: float) -> Shot:
    """Draw a random take: position, movement, focus and exposure of the camera.

    Takes vary like everyday footage: tripod, slow and fast pans, zooms, hand-held; sharp and soft,
    bright and dark, clear and hazy, clean and grainy, warm and cold. Windows range from a detail to
    the complete photograph. So one photograph gives very different clips, and its content does not
    determine their labels.

    Args:
      rng: random generator.
      photo_width: width of the photograph in pixels.
      photo_height: height of the photograph in pixels.
      aspect: width over height of the clip.

    Returns:
      A shot that `film` keeps within the photograph.
    """
    widest = min(photo_width, photo_height * aspect)
    width = widest * float(np.exp(rng.uniform(np.log(0.25), np.log(1.0))))
    move = ("tripod", "pan", "zoom", "hand")[int(rng.choice(4, p=[0.2, 0.4, 0.2, 0.2]))]
    speed = width * float(np.exp(rng.uniform(np.log(0.001), np.log(0.015))))
    angle = rng.uniform(0, 2 * np.pi)
    return Shot(
        center_x=float(rng.uniform(width / 2, photo_width - width / 2)),
        center_y=float(rng.uniform(width / aspect / 2, photo_height - width / aspect / 2)),
        window_width=width,
        pan_x=speed * float(np.cos(angle)) if move == "pan" else 0.0,
        pan_y=speed * float(np.sin(angle)) if move == "pan" else 0.0,
        zoom=float(rng.uniform(0.98, 1.02)) if move == "zoom" else 1.0,
        shake=0.25 * speed if move == "hand" else 0.0,
        exposure=float(np.exp(rng.normal(0.0, 0.35))),
        metered=True,
        contrast=float(np.exp(rng.uniform(np.log(0.3), np.log(1.2)))),
        tint=(float(np.exp(rng.normal(0.0, 0.15))), 1.0, float(np.exp(rng.normal(0.0, 0.15)))),
        defocus=_one_of(rng, (0.0, rng.uniform(0.5, 3.0))),
        grain=_one_of(rng, (rng.uniform(0.0, 1.0), rng.uniform(1.0, 6.0))),
        mirrored=bool(rng.random() < 0.5),
        seed=int(rng.integers(2**31)),
    )


def _one_of(rng: np.random.Generator, usual_and_rare: tuple[float, float]) -> float:
    """Return the usual value with probability 0.6, the rare one with 0.4."""
    return usual_and_rare[int(rng.choice(2, p=[0.6, 0.4]))]


def film(photo: UInt8Array, shot: Shot, *, num_frames: int, width: int, height: int) -> UInt8Array:
    """Film a photograph.

    Args:
      photo: [H, W, 3] uint8 RGB.
      shot: the take.
      num_frames: T.
      width: width of the clip in pixels.
      height: height of the clip in pixels.

    Returns:
      [T, height, width, 3] uint8 RGB.
    """
    image = Image.fromarray(photo)
    rng = np.random.default_rng(shot.seed)
    # Hand movement is a random walk, sampled at each frame and linear in between.
    walk = np.cumsum(rng.normal(0.0, shot.shake, size=(num_frames + 1, 2)), axis=0)
    middle = _window(shot, num_frames / 2, walk, num_frames, image.size, width / height)
    gains = shot.exposure * np.array(shot.tint)
    if shot.metered:
        gains *= _auto_exposure(_view(image, middle, width, height, 0.0))
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for index in range(num_frames):
        boxes = _exposure_boxes(shot, index, walk, num_frames, image.size, width, height)
        light = sum(_view(image, box, width, height, shot.defocus) for box in boxes) / len(boxes)
        noise = rng.normal(0.0, shot.grain, size=(height, width, 1))
        seen = MID_GRAY + shot.contrast * (light * gains - MID_GRAY)
        frames[index] = np.clip(np.rint(seen + noise), 0, 255)
    return frames[:, :, ::-1] if shot.mirrored else frames


def _auto_exposure(view: NDArray[np.float32]) -> float:
    """Return the factor, within the meter's range, that brings a view to mid gray."""
    low, high = METER_RANGE
    return float(np.clip(MID_GRAY / max(float(view.mean()), 1.0), low, high))


def _exposure_boxes(
    shot: Shot,
    index: int,
    walk: NDArray[np.float64],
    num_frames: int,
    photo_size: tuple[int, int],
    width: int,
    height: int,
) -> list[Box]:
    """Return the windows of the sub-exposures of frame `index`, in photograph pixels."""
    opened, closed = (
        _window(shot, index + part, walk, num_frames, photo_size, width / height)
        for part in (0.0, SHUTTER)
    )
    scale = width / shot.window_width
    travel_px = scale * max(abs(a - b) for a, b in zip(opened, closed, strict=True))
    count = int(np.clip(np.ceil(travel_px / EXPOSURE_STEP_PX), 1, MAX_EXPOSURES))
    return [
        _window(shot, index + SHUTTER * part, walk, num_frames, photo_size, width / height)
        for part in (np.arange(count) + 0.5) / count
    ]


def _window(
    shot: Shot,
    time: float,
    walk: NDArray[np.float64],
    num_frames: int,
    photo_size: tuple[int, int],
    aspect: float,
) -> Box:
    """Return the window at `time` (frames), moved to stay within the photograph."""
    since_middle = time - num_frames / 2
    width = min(shot.window_width * shot.zoom**since_middle, photo_size[0], photo_size[1] * aspect)
    size = np.array([width, width / aspect])
    index = min(int(time), num_frames - 1)
    hand = walk[index] + (time - index) * (walk[index + 1] - walk[index])
    center = np.array([shot.center_x, shot.center_y]) + hand
    center += since_middle * np.array([shot.pan_x, shot.pan_y])
    center = np.clip(center, size / 2, np.maximum(np.array(photo_size) - size / 2, size / 2))
    left, top = np.maximum(center - size / 2, 0.0)
    right, bottom = np.minimum(center + size / 2, photo_size)
    return (float(left), float(top), float(right), float(bottom))


def _view(
    image: Image.Image, box: Box, width: int, height: int, defocus: float
) -> NDArray[np.float32]:
    """Return the image of one window: float32 [height, width, 3]."""
    view = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
    if defocus > 0:
        view = view.filter(ImageFilter.GaussianBlur(defocus))
    return np.asarray(view, np.float32)
