"""Measure how long a training waits for its checkpoints, with a slow store.

    python benchmarks/checkpoints.py        # four minutes on two idle cores

The head of MJ-LAT, with checkpoints of 261 MB the largest of the published models, learns from
noise. The store is a folder whose uploads are delayed to a number of MB per second. A training
saves every 40 s, once as the product does, in a thread, and once so that each step waits for the
upload, as before. The share that a training waits at the interval of the preset `paper`, ten
minutes, is computed from the measured seconds per checkpoint.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from results import table, write_result

from laser_dist.keras_import import import_keras

import_keras()

import tensorflow as tf  # noqa: E402

from laser_dist.examples.order import Batch  # noqa: E402
from laser_dist.models.heads import build_head  # noqa: E402
from laser_dist.models.specs import BackboneSpec  # noqa: E402
from laser_dist.models.variants import MJ_LAT  # noqa: E402
from laser_dist.storage.run_files import RunFiles  # noqa: E402
from laser_dist.training.config import CheckpointInterval, StageConfig  # noqa: E402
from laser_dist.training.learning.loop import Stage, TrainingContext, train_stage  # noqa: E402
from laser_dist.training.learning.objectives import LevelObjective  # noqa: E402
from laser_dist.training.storage.checkpoints import (  # noqa: E402
    CheckpointWriter,
    Progress,
    Variables,
)
from laser_dist.training.storage.logs import RunLog  # noqa: E402

LEVELS = (26.0, 30.0, 35.0)
MB_PER_SECOND = 20.0
SECONDS_BETWEEN = 40.0
SECONDS = 100.0  # of each training
DEFAULT_S = 600.0  # between checkpoints of the preset paper


@dataclass(frozen=True)
class SlowStore(RunFiles):
    """A folder to which each file takes as long as it would to a store of some speed."""

    def push(self, *paths: Path) -> None:
        """Wait as long as an upload takes."""
        for path in paths:
            if path.is_file():
                time.sleep(path.stat().st_size / (1e6 * MB_PER_SECOND))


@dataclass(frozen=True)
class Noise:
    """One batch of noise, as often as there is time."""

    seconds: float

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batch until the time is over."""
        rng, shape = np.random.default_rng(index), (1, *BackboneSpec().latent_shape)
        features = [rng.normal(size=shape).astype(np.float16) for _ in LEVELS]
        targets, weights = np.array([LEVELS], np.float32), np.ones(1, np.float32)
        ends = time.monotonic() + self.seconds
        while time.monotonic() < ends:
            yield Batch(features, targets, weights, 1)


class Epochs(RunLog):
    """A log that keeps the metrics of the epochs."""

    found: dict[str, float]

    def event(self, kind: str, **values: Any) -> None:
        """Keep the metrics of an epoch."""
        if kind == "epoch":
            self.found = values["metrics"]
        super().event(kind, **values)


def train(folder: Path, interval: CheckpointInterval) -> tuple[float, float, list[float]]:
    """Train for some time.

    Returns:
      Seconds of the steps; seconds of them that training waited for checkpoints; sizes in MB.
    """
    store = SlowStore(str(folder))
    log = Epochs(store, is_chief=True)
    context = TrainingContext(
        strategy=tf.distribute.get_strategy(),
        store=store,
        log=log,
        config={},
        checkpoint_interval=interval,
    )
    stage = Stage(
        name="mj-lat",
        model=build_head(
            MJ_LAT.published_head,
            MJ_LAT.feature_shape(BackboneSpec()),
            levels=3,
            initial_levels=LEVELS,
        ),
        objective=LevelObjective(),
        settings=StageConfig(epochs=1, batch_size=1),
        training=Noise(SECONDS),
        validation=Noise(0.1),
        steps_per_epoch=10**6,
        settings_name="heads",
    )
    train_stage(stage, context)
    seconds = log.found["training_seconds"]
    sizes = [path.stat().st_size / 1e6 for path in folder.rglob("epoch-*.npz")]
    return seconds, log.found["checkpoint"] * seconds, sizes


class WaitingWriter(CheckpointWriter):
    """Writes as training did before: the steps wait for it."""

    def save(self, variables: Variables, best: Variables, progress: Progress) -> None:
        """Write a checkpoint, and wait until it is uploaded."""
        super().save(variables, best, progress)
        self.finish()


def main() -> None:
    """Run the script."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    from laser_dist.training.learning import loop

    rows, blocked = [], {}
    interval = CheckpointInterval(seconds=SECONDS_BETWEEN)
    for name, writer in (("in a thread", CheckpointWriter), ("while steps wait", WaitingWriter)):
        loop.CheckpointWriter = writer  # type: ignore[misc]
        with tempfile.TemporaryDirectory() as folder:
            seconds, waited, sizes = train(Path(folder), interval)
        blocked[name] = waited / len(sizes)
        share = blocked[name] / (DEFAULT_S + blocked[name])
        rows.append(
            [
                f"Written {name}", len(sizes), round(max(sizes)), round(blocked[name], 2),
                f"{100 * waited / seconds:.1f}%", f"{100 * share:.2f}%",
            ]
        )  # fmt: skip
    measured = table(
        f"The head of `mj-lat` at its published size, a store of {MB_PER_SECOND:g} MB/s, a "
        f"checkpoint every {SECONDS_BETWEEN:g} s",
        [
            "Checkpoints", "Number", "MB each", "Training waits, s each", "Share of the time",
            "Share at ten minutes (computed)",
        ],
        [rows[0], rows[1]],
    )  # fmt: skip
    share = blocked["in a thread"] / (DEFAULT_S + blocked["in a thread"])
    write_result(
        "checkpoints",
        title="Wait for checkpoints",
        simulated=False,
        summary=f"A training waits {blocked['in a thread']:.2f} s for a checkpoint that takes "
        f"{blocked['while steps wait']:.0f} s to write and upload. At one checkpoint in ten "
        f"minutes, the default, that is {100 * share:.2f}% of the time.",
        tables=[measured],
        notes=["The speed of the store is simulated; its uploads are pauses."],
    )


if __name__ == "__main__":
    main()
