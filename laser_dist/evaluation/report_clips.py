"""The clips of the report: their frames as images within the page, and what stands beside them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from laser_dist.evaluation.exemplars import Exemplar


@dataclass(frozen=True)
class LevelView:
    """One level of one clip: figures of both frames and the frames themselves.

    Where the level is missing there is no coded frame, and `coded_uri` is empty; so is
    `predicted_uri` where there is no backbone. A level that the network does not predict is not
    `answered`.
    """

    index: int
    answered: bool
    true: float
    predicted: float
    true_psnr_db: float
    abs_psnr_error_db: float
    coded_psnr_db: float
    predicted_psnr_db: float
    coded_uri: str
    predicted_uri: str


@dataclass(frozen=True)
class ClipView:
    """One clip to look at."""

    exemplar: Exemplar
    title: str
    width: int
    height: int
    raw_uri: str
    levels: Sequence[LevelView]

    @property
    def is_single(self) -> bool:
        """Whether one level alone is shown: its two frames stand side by side."""
        return sum(level.answered for level in self.levels) == 1

    @property
    def has_backbones(self) -> bool:
        """Whether any frame of a backbone is shown."""
        return any(level.predicted_uri for level in self.levels)


def data_uri(rgb: np.ndarray) -> str:
    """An image within the page, without loss: it is here to be looked at closely.

    Args:
      rgb: uint8 [H, W, 3].
    """
    buffer = io.BytesIO()
    # Lossless WebP: a third smaller than PNG on photographs, and every browser reads it.
    Image.fromarray(rgb).save(buffer, format="WEBP", lossless=True, quality=60, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


_TITLES: Mapping[str, str] = {
    "lowest": "The lowest error",
    "median": "The median error",
    "highest": "The highest error",
}


def clip_view(exemplar: Exemplar, answered: Sequence[int]) -> ClipView:
    """What the page says and shows of a clip.

    Args:
      exemplar: the clip.
      answered: which levels, from 1, the network predicts.
    """
    height, width, _ = exemplar.raw.shape
    return ClipView(
        exemplar=exemplar,
        title=_TITLES[exemplar.standing],
        width=width,
        height=height,
        raw_uri=data_uri(exemplar.raw),
        levels=[
            _level_view(exemplar, index, answered=index + 1 in answered)
            for index in range(len(exemplar.coded))
        ],
    )


def _level_view(exemplar: Exemplar, index: int, *, answered: bool) -> LevelView:
    imagined = exemplar.predicted.get(index + 1)
    no_coded = not answered or np.isnan(exemplar.true_levels[index])
    return LevelView(
        index=index + 1,
        answered=answered,
        true=float(exemplar.true_levels[index]),
        predicted=float(exemplar.predicted_levels[index]),
        true_psnr_db=float(exemplar.true_psnr_db[index]),
        abs_psnr_error_db=float(exemplar.abs_psnr_error_db[index]),
        coded_psnr_db=float(exemplar.coded_psnr_db[index]),
        predicted_psnr_db=float(exemplar.predicted_psnr_db[index]),
        coded_uri="" if no_coded else data_uri(exemplar.coded[index]),
        predicted_uri="" if imagined is None or not answered else data_uri(imagined),
    )
