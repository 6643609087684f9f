"""Finished model files: complete or absent, in float32 at any training precision."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from laser_dist.errors import UserError
from laser_dist.models.autoencoder import build_autoencoder
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.predictors import build_predictor, load_saved_model
from laser_dist.models.specs import BackboneSpec
from laser_dist.models.variants import variant_named
from laser_dist.storage.files import atomic_path
from laser_dist.training.calibration import calibrate
from laser_dist.training.config import TrainingConfig
from laser_dist.training.plan import plan_stages
from laser_dist.training.reuse import model_names, model_path, read_record

PREDICTOR = "predictor"


def save_in_float32(
    build: Callable[[], keras.Model], weights: Sequence[np.ndarray], path: Path
) -> None:
    """Save a model of these weights that computes in float32.

    Args:
      build: makes the model, with any weights.
      weights: weights, as from `get_weights`.
      path: file to write, ending in `.keras`.
    """
    with _in_float32():
        model = build()
    model.set_weights(weights)
    save_model(model, path)


def save_model(model: keras.Model, path: Path) -> None:
    """Save a model, complete or absent."""
    with atomic_path(path) as unfinished:
        model.save(unfinished)


def check_fits(file: Path, spec: BackboneSpec) -> None:
    """Check that a file holds a backbone with the filters of `spec`; its frame size may differ.

    Raises:
      UserError: it is no model file, or has other filters.
    """
    expected = [weight.shape for weight in build_autoencoder(spec, "expected").weights]
    model = load_saved_model(file)
    found = [weight.shape for weight in model.weights]
    if found != expected:
        pairs = zip(expected, found, strict=False)
        wrong = next(
            (f"a weight of shape {b}, not {a}" for a, b in pairs if a != b),
            f"{len(found)} weights, not {len(expected)}",
        )
        raise UserError(
            f"{file} does not fit the run's backbone: it has {wrong}.",
            hint="Train with its size (--set backbone.filters=…, backbone.latent_filters=…).",
        )


def finish_predictor(config: TrainingConfig, run_dir: Path, card: Mapping[str, Any]) -> None:
    """Join a run's backbones and heads to the predictor, and calibrate it, if all are trained.

    Args:
      config: configuration of the run.
      run_dir: folder of the run.
      card: the dataset's card, with `dir`, `scale`, `simulated` and `splits`, and the `resolution`
        of its clips if they have one.
    """
    variant = variant_named(config.variant)
    plans = plan_stages(variant, config.levels)
    last = [plan for plan in plans if plan.kind in ("head", "joint")]
    names = [name for plan in last for name in (plan.needs if plan.kind == "head" else [plan.name])]
    joined = {*names, *(plan.name for plan in last)}
    if any(read_record(run_dir, plan) is None for plan in plans if plan.name in joined):
        return
    levels = tuple(level for plan in last for level in plan.levels)
    answer = PredictorSpec(
        variant=variant.name,
        levels=levels,
        scale=card["scale"],
        simulated=card["simulated"],
        spread=config.head.spread,
        resolution=card.get("resolution"),
    )
    with _in_float32():
        load = partial(load_saved_model, is_trusted=True)
        heads = [load(model_path(run_dir, model_names(plan)[-1])) for plan in last]
        backbones = [load(model_path(run_dir, name)) for name in names]
        predictor = build_predictor(backbones, heads, answer)
    calibrate(predictor, card["dir"], card["splits"])
    save_model(predictor, model_path(run_dir, PREDICTOR))


def seed_of(seed: int, stage: str) -> int:
    """Return the seed of a stage, below 2**31."""
    digest = hashlib.sha256(f"{seed} {stage}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@contextmanager
def _in_float32() -> Iterator[None]:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
