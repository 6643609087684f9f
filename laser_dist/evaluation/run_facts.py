"""What must be known of a run before its figures mean anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laser_dist.errors import UserError

_SEEN = ("train", "validation")


@dataclass(frozen=True)
class RunFacts:
    """What a run's configuration tells of its training.

    Attributes:
      variant: the predictor's key in the results, for example `mj-lat`.
      fingerprint: of the dataset it was trained on.
      trained_on: ids of the sources it saw: those of training and of validation.
    """

    variant: str
    fingerprint: str
    trained_on: frozenset[str]


def run_facts(config: Mapping[str, Any], run_dir: Path) -> RunFacts:
    """Pick the facts from a run's resolved configuration.

    Args:
      config: holds `variant` and `dataset`: {`fingerprint`, `splits`}.
      run_dir: named in the error.

    Raises:
      UserError: one of them is missing.
    """
    dataset = config.get("dataset")
    if (
        not isinstance(dataset, Mapping)
        or not {"fingerprint", "splits"} <= dataset.keys()
        or "variant" not in config
    ):
        raise UserError(
            f"config.json of run {run_dir}",
            "the variant, and the fingerprint and splits of the dataset it was trained on",
            f"the keys {', '.join(sorted(config)) or 'none'}",
            "Train again with this version of the project.",
        )
    return RunFacts(
        variant=str(config["variant"]).lower().replace("_", "-"),
        fingerprint=str(dataset["fingerprint"]),
        trained_on=frozenset(
            source_id for split in _SEEN for source_id in dataset["splits"].get(split, ())
        ),
    )
