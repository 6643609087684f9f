"""Sizes of the models, as plain data: nothing here needs Keras, so settings are checked at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from laser_dist.errors import UserError

NUM_STAGES = 4
STRIDE = 2**NUM_STAGES  # input pixels per latent position, along each axis
NUM_CHANNELS = 3
POOLINGS = ("flatten", "average")
OUTPUTS = ("linear", "relu")


def _check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(
            f"Head setting {field}", f"one of {', '.join(choices)}", value, "Choose one of them."
        )


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Size of an autoencoder; the defaults are the published one's.

    Attributes:
      filters: channels of every layer but the latent and the frame.
      latent_filters: channels of the latent.
      height: input height in pixels, a multiple of 16.
      width: input width in pixels, a multiple of 16.

    Raises:
      UserError: a number below 1, or a size that is no multiple of 16.
    """

    filters: int = 128
    latent_filters: int = 192
    height: int = 352
    width: int = 640

    def __post_init__(self) -> None:
        for field in ("filters", "latent_filters"):
            value = getattr(self, field)
            if value < 1:
                raise UserError(
                    f"Backbone setting {field}", "at least 1", str(value), "Choose a larger one."
                )
        for field in ("height", "width"):
            _check_side(field, getattr(self, field))

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, 3) of a raw or a reconstructed frame."""
        return (self.height, self.width, NUM_CHANNELS)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (H / 16, W / 16, latent_filters) of a frame's latent."""
        return (self.height // STRIDE, self.width // STRIDE, self.latent_filters)


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Size and form of a head; the defaults are the published latent head.

    Attributes:
      filters: channels of the convolution blocks, in order. The first block stands in each
        branch; its results are multiplied element by element where there are three branches.
      pool_every: a 2×2 max-pool follows every so many blocks.
      attention_ratio: ratio of the blocks' channel attention, None for no attention.
      dense: units of the hidden dense layers, in order.
      shared_dense: whether all levels share the hidden dense layers or each has its own.
      pooling: how the map becomes a vector. "flatten" keeps positions (published); "average" takes
        each channel's mean, which needs far fewer parameters and suits small data sets.
      output: "linear" has a gradient everywhere, so training from scratch always starts; "relu"
        is what published weights were trained with, and about half of such outputs are dead at
        random initialization.
      ordered: whether three levels are ordered by construction, each no better than the one before,
        on the dataset's scale; published heads leave them free.
      spread: whether the head also gives how far apart viewers are, per level: the standard
        deviation of their samples, so that any share of satisfied viewers can be asked for.
      knee: where normalized features begin to be compressed by `layers.SignedLog`, in their
        standard deviations; None leaves them as they are (published). Levels follow the logarithm
        of what is seen, which a small head learns from few sources only if it is given.

    Raises:
      UserError: a number below 1, no block, an unknown `pooling` or `output`, ordered levels of
        another output than linear, or a knee that is not above 0.
    """

    filters: tuple[int, ...] = (64, 128, 256, 512)
    pool_every: int = 2
    attention_ratio: int | None = 8
    dense: tuple[int, ...] = (256, 128)
    shared_dense: bool = False
    pooling: Literal["flatten", "average"] = "flatten"
    output: Literal["linear", "relu"] = "linear"
    ordered: bool = False
    spread: bool = False
    knee: float | None = None

    def __post_init__(self) -> None:
        if not self.filters:
            raise UserError("Head setting filters", "at least one", "none", "Name a number.")
        ratio = 1 if self.attention_ratio is None else self.attention_ratio
        for field, values in (
            ("filters", self.filters),
            ("dense", self.dense),
            ("pool_every", (self.pool_every,)),
            ("attention_ratio", (ratio,)),
        ):
            if min(values, default=1) < 1:
                raise UserError(
                    f"Head setting {field}",
                    "at least 1",
                    str(getattr(self, field)),
                    "Choose a larger one.",
                )
        if self.ordered and self.output != "linear":
            raise UserError(
                "Head setting ordered", "output linear with it", self.output, "Choose one of them."
            )
        if self.knee is not None and not 0 < self.knee < math.inf:
            raise UserError(
                "Head setting knee", "none, or above 0", str(self.knee), "Choose another."
            )
        _check_choice("pooling", self.pooling, POOLINGS)
        _check_choice("output", self.output, OUTPUTS)


LATENT_HEAD = HeadSpec()
"""The published head on latents (LAT, E2E-LAT, MJ-LAT), but for its output, which is linear."""

RECONSTRUCTION_HEAD = HeadSpec(
    filters=(512, 256, 128, 64, 32),
    pool_every=1,
    attention_ratio=None,
    dense=(512,),
    shared_dense=True,
)
"""The published head on reconstructed frames (REC, E2E-REC, MJ-REC), with a linear output."""


def _check_side(field: str, size: int) -> None:
    if size >= STRIDE and size % STRIDE == 0:
        return
    below, above = size // STRIDE * STRIDE, (size // STRIDE + 1) * STRIDE
    nearest = f"{below} or {above}" if below >= STRIDE else str(max(above, STRIDE))
    raise UserError(
        f"Model input {field}",
        f"a multiple of {STRIDE}, at least {STRIDE}",
        str(size),
        f"The nearest that work: {nearest}.",
    )
