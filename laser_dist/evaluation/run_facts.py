"""What must be known of a run before its figures mean anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laser_dist.errors import UserError


@dataclass(frozen=True)
class RunFacts:
    """What a run's configuration tells of its training.

    Attributes:
      variant: the predictor's key in the results, for example `mj-lat`.
      fingerprint: of the dataset it was trained on.
      trained_on: ids of the sources it saw, where the run lists them.
    """

    variant: str
    fingerprint: str
    trained_on: frozenset[str]


def run_facts(config: Mapping[str, Any], run_dir: Path) -> RunFacts:
    """Pick the facts from a run's resolved configuration.

    Args:
      config: holds `variant` and `dataset`: {`fingerprint`, and where listed `trained_on`}.
      run_dir: named in the error.

    Raises:
      UserError: one of them is missing.
    """
    dataset = config.get("dataset")
    if not isinstance(dataset, Mapping) or "fingerprint" not in dataset or "variant" not in config:
        raise UserError(
            f"config.json of run {run_dir}",
            "the variant and the fingerprint of the dataset it was trained on",
            f"the keys {', '.join(sorted(config)) or 'none'}",
            "Train again with this version of the project.",
        )
    return RunFacts(
        variant=str(config["variant"]).lower().replace("_", "-"),
        fingerprint=str(dataset["fingerprint"]),
        trained_on=frozenset(dataset.get("trained_on", ())),
    )
