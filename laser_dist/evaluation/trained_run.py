"""A finished run, read from its directory as the functions and facts that evaluation needs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from laser_dist.evaluation.evaluate import TrainedRun
from laser_dist.evaluation.learning_curves import read_curves
from laser_dist.evaluation.run_facts import run_facts
from laser_dist.prediction.predict import (
    load_model,
    load_predictor,
    predict_frames,
    predict_images,
)
from laser_dist.training.runs import load_run

_BACKBONES = ("jnd1", "jnd2", "jnd3")


def load_trained_run(run_dir: Path) -> TrainedRun:
    """Load a finished run: its models, its facts and its log.

    Raises:
      UserError: no finished model, or a configuration that does not say what it was trained on.
    """
    run = load_run(run_dir)
    facts = run_facts(run.config, run_dir)
    predictor = load_predictor(run_dir)
    backbones = [load_model(run_dir / "models" / f"{name}.keras") for name in _BACKBONES]
    return TrainedRun(
        path=str(run_dir),
        variant=facts.variant,
        fingerprint=facts.fingerprint,
        trained_on=facts.trained_on,
        width=predictor.width,
        height=predictor.height,
        predict=partial(predict_frames, predictor),
        backbones=tuple(partial(predict_images, backbone) for backbone in backbones),
        curves=read_curves(run_dir / "logs" / "metrics"),
    )
