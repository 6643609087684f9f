"""Sizes of the models as plain data, without Keras, so settings are validated immediately."""

import math
from dataclasses import dataclass
from typing import Literal

from laser_dist.errors import UserError, nearest

NUM_STAGES = 4
STRIDE = 2**NUM_STAGES  # input pixels per latent position, along each axis
NUM_CHANNELS = 3
POOLINGS = ("flatten", "average")
OUTPUTS = ("linear", "relu")
STARTS = ("mean", "zero")


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Size of an autoencoder; the defaults are the published size.

    Attributes:
      filters: channels of every layer except the latent and the frame.
      latent_filters: channels of the latent.
      height: input height in pixels, a multiple of 16.
      width: input width in pixels, a multiple of 16.

    Raises:
      UserError: a number is below 1, or a size is not a multiple of 16.
    """

    filters: int = 128
    latent_filters: int = 192
    height: int = 352
    width: int = 640

    def __post_init__(self) -> None:
        for field in ("filters", "latent_filters"):
            if getattr(self, field) < 1:
                raise UserError(f"backbone.{field} must be at least 1, not {getattr(self, field)}.")
        for field in ("height", "width"):
            _check_side(field, getattr(self, field))

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, 3) of a raw or reconstructed frame."""
        return (self.height, self.width, NUM_CHANNELS)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (H / 16, W / 16, latent_filters) of the latent of a frame."""
        return (self.height // STRIDE, self.width // STRIDE, self.latent_filters)


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Size and form of a head; the defaults are the published latent head.

    Attributes:
      filters: channels of the convolution blocks, in order. Each branch has its own first block;
        with three branches the results are multiplied element by element.
      pool_every: number of blocks between 2×2 max-pools.
      attention_ratio: ratio of the blocks' channel attention; `none` for no attention.
      dense: units of the hidden dense layers, in order.
      shared_dense: whether all levels share the hidden dense layers or each has its own.
      pooling: how a feature map becomes a vector. "flatten" keeps positions (published); "average"
        takes the mean of each channel, which needs far fewer parameters and suits small datasets.
      output: activation. "linear" has a gradient everywhere, so training from scratch always
        starts; "relu" is that of the published weights, and about half of such outputs are dead
        at random initialization.
      start: outputs of a new head. "mean" starts at the mean levels of the training split; "zero"
        starts at 0, as published.
      norm_momentum: momentum of the moving averages of batch norms. Keras's 0.99, as published,
        lags for hundreds of steps, which is much of a short training.
      ordered: whether three levels are ordered by construction, each no better than the previous
        one, on the dataset's scale; the published heads do not order them.
      spread: whether the head also predicts the standard deviation of the viewers' samples per
        level, so that any satisfied-user ratio can be targeted.
      knee: size of normalized features, in standard deviations, from which the head compresses
        them logarithmically; `none` does not compress (published). Levels follow the logarithm of
        visible errors, which a small head does not learn from few sources without help.

    Raises:
      UserError: a number is below 1, there is no block, `pooling` or `output` is unknown, ordered
        levels have another output than linear, or the knee is not above 0.
    """

    filters: tuple[int, ...] = (64, 128, 256, 512)
    pool_every: int = 2
    attention_ratio: int | None = 8
    dense: tuple[int, ...] = (256, 128)
    shared_dense: bool = False
    pooling: Literal["flatten", "average"] = "flatten"
    output: Literal["linear", "relu"] = "linear"
    start: Literal["mean", "zero"] = "mean"
    norm_momentum: float = 0.9
    ordered: bool = False
    spread: bool = False
    knee: float | None = None

    def __post_init__(self) -> None:
        if not self.filters:
            raise UserError("head.filters must hold at least one number.")
        ratio = 1 if self.attention_ratio is None else self.attention_ratio
        for field, values in (
            ("filters", self.filters),
            ("dense", self.dense),
            ("pool_every", (self.pool_every,)),
            ("attention_ratio", (ratio,)),
        ):
            if min(values, default=1) < 1:
                raise UserError(f"head.{field} must be at least 1, not {getattr(self, field)}.")
        if self.ordered and self.output != "linear":
            raise UserError(f"head.ordered=true requires head.output=linear, not {self.output}.")
        if self.knee is not None and not 0 < self.knee < math.inf:
            raise UserError(f"head.knee must be above 0 or none, not {self.knee}.")
        if not 0 <= self.norm_momentum < 1:
            raise UserError(
                f"head.norm_momentum must be 0 or more and below 1, not {self.norm_momentum}."
            )
        for field, choices in (("pooling", POOLINGS), ("output", OUTPUTS), ("start", STARTS)):
            value = getattr(self, field)
            if value not in choices:
                raise UserError(
                    f"head.{field} must be {' or '.join(choices)}, not {value}.",
                    hint=nearest(value, choices),
                )


LATENT_HEAD = HeadSpec()
"""The published head on latents (LAT, E2E-LAT, MJ-LAT), with a linear output."""

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
    usable = f"{below} or {above}" if below >= STRIDE else str(STRIDE)
    raise UserError(
        f"The frame {field} must be a multiple of {STRIDE}, not {size}.", hint=f"Use {usable}."
    )
