"""How far a clip is from those that a model has learned from, by simple features of its frames.

The distance is Mahalanobis': in standard deviations of the training clips, with the correlation of
the features taken into account.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laser_dist.jnd.calibration import bounds

NEAR = 0.95
"""Share of clips like those of the training that are within `Domain.limit`."""

_FEATURES = ("brightness", "contrast", "edges", "colorfulness", "flat", "colors")
# Below these, features of the training clips are taken as equal.
_LEAST_SPREAD = np.array([1.0, 1.0, 0.05, 1.0, 0.01, 0.1])
_DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class Domain:
    """The clips that a model has learned from, as a cloud of `frame_features`.

    Attributes:
      center: [F], means of the features.
      whitening: [F] of [F], matrix by which a difference from the center becomes one whose length
        is the distance.
      limit: distance within which `NEAR` of such clips are, from clips that were not learned from.

    Raises:
      ValueError: the numbers of features differ, or a value is not finite.
    """

    center: tuple[float, ...]
    whitening: tuple[tuple[float, ...], ...]
    limit: float

    def __post_init__(self) -> None:
        count = len(_FEATURES)
        sizes = {len(self.center), len(self.whitening), *(len(row) for row in self.whitening)}
        values = [*self.center, *(value for row in self.whitening for value in row), self.limit]
        if sizes != {count} or not np.isfinite(values).all():
            raise ValueError(f"a domain must have {count} finite features")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Domain":
        """Return a domain from plain values, as in a file, where tuples are lists."""
        rows = tuple(map(tuple, values["whitening"]))
        return cls(center=tuple(values["center"]), whitening=rows, limit=values["limit"])

    @classmethod
    def of_clips(
        cls,
        learned: NDArray[np.floating],
        held_out: NDArray[np.floating],
        group_ids: Sequence[str],
    ) -> "Domain | None":
        """Return the domain of training clips; None if there are too few for a cloud or a limit.

        Args:
          learned: [N, F], features of the training clips.
          held_out: [M, F], features of clips that the model has not learned from.
          group_ids: [M], group of each of these clips.
        """
        if len(learned) < 2 or len(held_out) == 0:
            return None
        center = learned.mean(axis=0)
        covariance = np.cov(learned, rowvar=False) + np.diag(_LEAST_SPREAD**2)
        whitening = np.linalg.cholesky(np.linalg.inv(covariance)).T
        distances = np.linalg.norm((held_out - center) @ whitening.T, axis=1)
        (limit,) = bounds(distances[:, None], group_ids, NEAR)
        if np.isnan(limit):
            return None
        return cls(
            center=tuple(np.round(center, _DIGITS).tolist()),
            whitening=tuple(map(tuple, np.round(whitening, _DIGITS).tolist())),
            limit=round(float(limit), 2),
        )

    def distance(self, features: NDArray[np.floating]) -> float:
        """Return the distance of a clip, from the mean [F] of the features of its frames."""
        return float(np.linalg.norm(np.array(self.whitening) @ (features - np.array(self.center))))


def frame_features(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return what tells photographs from drawings, screens and other content.

    Args:
      frames: uint8 [N, H, W, 3], RGB.

    Returns:
      [N, F]: mean and standard deviation of the luma, the logarithm of the mean size of its
      gradient, colorfulness (Hasler & Süsstrunk, Measuring colorfulness in natural images, 2003),
      the share of pixels that are equal to their right neighbor, and the logarithm of the number of
      colors at 5 bits per channel.
    """
    return np.array([_features(frame) for frame in frames]).reshape(-1, len(_FEATURES))


def _features(frame: NDArray[np.uint8]) -> list[float]:
    red, green, blue = np.moveaxis(frame.astype(np.float32), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    down, across = np.gradient(luma)
    opponents = red - green, (red + green) / 2 - blue
    spread = np.hypot(*(each.std() for each in opponents))
    mean = np.hypot(*(each.mean() for each in opponents))
    coarse = (frame >> 3).astype(np.uint16)
    colors = np.unique(coarse[..., 0] << 10 | coarse[..., 1] << 5 | coarse[..., 2])
    return [
        float(luma.mean()),
        float(luma.std()),
        float(np.log1p(np.hypot(down, across).mean())),
        float(spread + 0.3 * mean),
        float((frame[:, 1:] == frame[:, :-1]).all(axis=-1).mean()),
        float(np.log(len(colors))),
    ]
