"""A finished run, read from its directory as the functions and facts that evaluation needs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from laser_dist.evaluation.evaluate import FramesToFrames, TrainedRun
from laser_dist.evaluation.learning_curves import read_curves
from laser_dist.evaluation.run_facts import run_facts
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.variants import variant_named
from laser_dist.prediction.predict import (
    load_model,
    load_predictor,
    predict_frames,
    predict_images,
)
from laser_dist.training.plan import plan_stages
from laser_dist.training.reuse import model_names, model_path
from laser_dist.training.runs import load_run


def load_trained_run(run_dir: Path) -> TrainedRun:
    """Load a finished run: its models, its facts and its log.

    Raises:
      UserError: no finished model, a file that is none, or a configuration that does not say what
        it was trained on.
    """
    facts = run_facts(load_run(run_dir).config, run_dir)
    predictor = load_predictor(run_dir)
    return TrainedRun(
        path=str(run_dir),
        variant=facts.variant,
        fingerprint=facts.fingerprint,
        trained_on=facts.trained_on,
        width=predictor.width,
        height=predictor.height,
        predict=partial(predict_frames, predictor),
        levels=predictor.answer.levels,
        spread=predictor.answer.spread,
        backbones=load_backbones(run_dir, predictor.answer),
        curves=read_curves(run_dir / "logs" / "metrics"),
    )


def backbone_paths(run_dir: Path, answer: PredictorSpec) -> dict[int, Path]:
    """Where the autoencoders lie that make frames as coded at a level.

    Returns:
      Level, from 1, to a file that is there. The predictor answers without them, so a run may have
      fewer than levels.
    """
    paths = {
        level: model_path(run_dir, model_names(stage)[0])
        for stage in plan_stages(variant_named(answer.variant), answer.levels)
        if stage.kind in ("jnd", "joint")
        for level in stage.levels
    }
    return {level: path for level, path in paths.items() if path.is_file()}


def load_backbones(run_dir: Path, answer: PredictorSpec) -> dict[int, FramesToFrames]:
    """Level, from 1, to what makes uint8 raw frames to frames as coded at it.

    Raises:
      UserError: a file is no Keras model.
    """
    return {
        level: partial(predict_images, load_model(path))
        for level, path in backbone_paths(run_dir, answer).items()
    }
