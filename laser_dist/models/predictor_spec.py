"""What a predictor's numbers mean, kept inside the model so that its file alone is enough."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import keras


@dataclass(frozen=True, kw_only=True)
class PredictorSpec:
    """What a predictor's output [B, L], or [B, L, 2] with spreads, says.

    Attributes:
      variant: such as "mj-lat".
      levels: which JND levels the L columns are, such as (1, 2, 3), ascending.
      scale: "QP" or "QF".
      simulated: whether no person has judged what it has learnt from.
      spread: whether each level comes as two: the level, at which 75 % of the viewers are
        satisfied, and the standard deviation of the viewers' samples around their mean, which is
        a normal distribution's.
    """

    variant: str
    levels: tuple[int, ...]
    scale: str
    simulated: bool
    spread: bool = False


@keras.saving.register_keras_serializable(package="laser_jnd")
class PredictorSpecLayer(keras.layers.Layer):
    """Hands its input on, and keeps the `PredictorSpec` with it."""

    def __init__(self, answer: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.answer = PredictorSpec(**{**answer, "levels": tuple(answer["levels"])})

    def call(self, inputs: Any) -> Any:
        """The input."""
        return inputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Every constructor argument, name, trainable and dtype."""
        return {**super().get_config(), "answer": asdict(self.answer)}


def predictor_spec_of(model: keras.Model) -> PredictorSpec:
    """What a predictor's output says.

    Raises:
      ValueError: the model is no predictor of `predictors.build_predictor`.
    """
    layers: Iterable[Any] = model.layers
    for layer in layers:
        if isinstance(layer, PredictorSpecLayer):
            return layer.answer
    raise ValueError(f"Model {model.name}: expected a predictor that says what it answers.")
