"""What a step takes: one worker's part of a global batch."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Batch:
    """This worker's part of one global batch.

    Attributes:
      inputs: what the model takes: [b, ...] array, or a list of such.
      targets: what the objective compares with: [b, ...] array, or a list of such.
      weights: [b] float32, 1 for an example, 0 for padding.
      global_count: examples of the global batch, over all workers, padding left out.
    """

    inputs: Any
    targets: Any
    weights: Any
    global_count: int
