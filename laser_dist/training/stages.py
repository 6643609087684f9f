"""The stages of a run, in order: backbones raw to raw, raw to JND1..3, then heads on features.

    image ──▶ jnd1, jnd2, jnd3 ──▶ features (once) ──▶ heads ──▶ predictor.keras

A stage whose model lies in the run's folder already is not trained again.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from laser_dist.errors import UserError
from laser_dist.models.answer import Answer
from laser_dist.models.autoencoder import build_autoencoder
from laser_dist.models.heads import build_head
from laser_dist.models.principal import start_from_principal_components
from laser_dist.models.specs import BackboneSpec
from laser_dist.models.variants import (
    Variant,
    build_predictor,
    feature_extractor,
    variant_named,
)
from laser_dist.training.config import StageConfig, TrainingConfig
from laser_dist.training.data import (
    RAW,
    FeatureBatches,
    FramePairs,
    Share,
    has_level,
    mean_levels,
    num_examples,
    num_steps,
    num_with,
    read_labels,
    sample_frames,
)
from laser_dist.training.latents import BATCH_SIZE, read_shares, write_share
from laser_dist.training.loop import Place, Stage, train_stage
from laser_dist.training.objectives import frame_objective, level_objective
from laser_dist.training.together import chiefs_values, wait_for_all

TRAIN, VALIDATION = "train", "validation"
PREDICTOR = "predictor"
NUM_SAMPLE = 64  # frames whose principal components a backbone starts from


def stage_names(variant: Variant) -> tuple[str, ...]:
    """Names of a variant's stages, in order."""
    return ("image", *variant.required_backbones(), variant.name)


def run_stages(config: TrainingConfig, dataset_dir: Path, share: Share, place: Place) -> None:
    """Trains all stages of a run; every worker calls this.

    Args:
      config: of the run.
      dataset_dir: of the prepared dataset.
      share: this worker's.
      place: where the run runs and writes.

    Raises:
      UserError: a level that no example of the training or the validation split has.
    """
    variant = variant_named(config.variant)
    levels = {split: read_labels(dataset_dir, split).levels for split in (TRAIN, VALIDATION)}
    for target in variant.required_backbones():
        _check_present(target, levels, dataset_dir)
    image = _backbone("image", None, config, dataset_dir, levels[TRAIN], share, place)
    backbones = [
        _backbone(name, image, config, dataset_dir, levels[TRAIN], share, place)
        for name in variant.required_backbones()
    ]
    if model_path(place.run_dir, PREDICTOR).exists():
        place.log.event("note", text=f"{variant.name}: trained before, reused")
        return
    head = _head(variant, backbones, config, dataset_dir, levels, share, place)
    if place.is_chief:
        answer = Answer(
            variant=variant.name,
            levels=(1, 2, 3),
            scale=place.config["dataset"]["scale"],
            simulated=place.config["dataset"]["simulated"],
        )
        save_model(build_predictor(backbones, [head], answer), place.run_dir, PREDICTOR)


def model_path(run_dir: Path, name: str) -> Path:
    """Where a finished model of a run lies."""
    return run_dir / "models" / f"{name}.keras"


def save_model(model: keras.Model, run_dir: Path, name: str) -> None:
    """Saves a model, complete or absent."""
    final = model_path(run_dir, name)
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_name(f".{name}.unfinished.keras")
    model.save(unfinished)
    os.replace(unfinished, final)


def _check_present(target: str, levels: Mapping[str, np.ndarray], dataset_dir: Path) -> None:
    """Refuses, before anything is learnt, a dataset of which a backbone could not."""
    for split, of_split in levels.items():
        if num_with(target, of_split) == 0:
            raise UserError(
                f"Dataset {dataset_dir}",
                f"an example of split {split} that has {target}",
                f"none of {len(of_split)}",
                "Build a larger dataset.",
            )


def _backbone(
    name: str,
    image: keras.Model | None,
    config: TrainingConfig,
    dataset_dir: Path,
    training_levels: np.ndarray,
    share: Share,
    place: Place,
) -> keras.Model:
    """One autoencoder: trained before, or trained now from the image one's weights."""
    path = model_path(place.run_dir, name)
    settings = config.image if image is None else config.jnd
    side = settings.crop
    spec = config.backbone if side is None else replace(config.backbone, height=side, width=side)
    with place.strategy.scope():
        model = build_autoencoder(config.backbone, name)
        if path.exists():
            place.log.event("note", text=f"{name}: trained before, reused")
            model.load_weights(path)
            return model
        # Convolutions fit any size: what is learnt on squares is used on whole frames.
        learner = build_autoencoder(spec, name)
        learner.set_weights(
            _principal_start(spec, config, dataset_dir, place)
            if image is None
            else image.get_weights()
        )
    target = RAW if image is None else name
    stage = Stage(
        name=name,
        model=learner,
        objective=frame_objective,
        settings=settings,
        training=_pairs(TRAIN, target, settings, config, dataset_dir, share, seed=config.seed),
        validation=_pairs(VALIDATION, target, settings, config, dataset_dir, share),
        steps_per_epoch=num_steps(num_with(target, training_levels), settings.batch_size),
    )
    _announce(stage, place)
    train_stage(stage, place)
    model.set_weights(learner.get_weights())
    if place.is_chief:
        save_model(model, place.run_dir, name)
    return model


def _principal_start(
    spec: BackboneSpec, config: TrainingConfig, dataset_dir: Path, place: Place
) -> list[np.ndarray]:
    """Weights from which a first autoencoder starts, the same on every worker."""
    height, width = config.backbone.height, config.backbone.width
    frames = sample_frames(dataset_dir, TRAIN, NUM_SAMPLE, height=height, width=width)
    # Outside the strategy's scope: as plain variables, which each worker computes for itself.
    model = build_autoencoder(spec, "start")
    start_from_principal_components(model, frames)
    text = f"image starts from the principal components of {len(frames)} frames"
    place.log.event("note", text=text)
    return chiefs_values(place.strategy, model.get_weights())


def _head(
    variant: Variant,
    backbones: Sequence[keras.Model],
    config: TrainingConfig,
    dataset_dir: Path,
    levels: Mapping[str, np.ndarray],
    share: Share,
    place: Place,
) -> keras.Model:
    """The head of a frozen variant, trained on features that are computed once."""
    settings = config.heads
    extractors = [feature_extractor(variant, backbone) for backbone in backbones]
    features = {
        split: _features(split, extractors, versions, config, dataset_dir, share, place)
        for split, versions in ((TRAIN, 2 if settings.flips else 1), (VALIDATION, 1))
    }
    with place.strategy.scope():
        head = build_head(
            config.head,
            variant.feature_shape(config.backbone),
            levels=variant.num_levels,
            initial_levels=mean_levels(levels[TRAIN]).tolist(),
        )

    def batches(split: str, seed: int | None) -> FeatureBatches:
        return FeatureBatches(
            features=features[split],
            levels=levels[split],
            batch_size=settings.batch_size,
            share=share,
            seed=seed,
            mixup=settings.mixup,
        )

    stage = Stage(
        name=variant.name,
        model=head,
        objective=level_objective,
        settings=settings,
        training=batches(TRAIN, config.seed),
        validation=batches(VALIDATION, None),
        steps_per_epoch=num_steps(int(has_level(levels[TRAIN]).sum()), settings.batch_size),
    )
    _announce(stage, place)
    train_stage(stage, place)
    return head


def _features(
    split: str,
    extractors: Sequence[keras.Model],
    versions: int,
    config: TrainingConfig,
    dataset_dir: Path,
    share: Share,
    place: Place,
) -> np.ndarray:
    """Every worker computes its share; then all read all."""
    folder = place.run_dir / "features"
    batch_size = BATCH_SIZE * share.num_workers
    settings = StageConfig(epochs=1, batch_size=batch_size)
    place.log.event("note", text=f"features of {split}: {num_examples(dataset_dir, split)} frames")
    frames = _pairs(split, RAW, settings, config, dataset_dir, share)
    write_share(folder, extractors, frames, versions=versions)
    wait_for_all(place.strategy)
    return read_shares(folder, split, batch_size, share.num_workers)


def _pairs(
    split: str,
    target: str,
    settings: StageConfig,
    config: TrainingConfig,
    dataset_dir: Path,
    share: Share,
    seed: int | None = None,
) -> FramePairs:
    return FramePairs(
        dataset_dir=dataset_dir,
        split=split,
        target=target,
        height=config.backbone.height,
        width=config.backbone.width,
        batch_size=settings.batch_size,
        share=share,
        seed=seed,
        flips=settings.flips and seed is not None,
        crop=settings.crop,
        crops_per_frame=settings.crops_per_frame,
    )


def _announce(stage: Stage, place: Place) -> None:
    place.log.event(
        "stage",
        stage=stage.name,
        epochs=stage.settings.epochs,
        steps=stage.steps_per_epoch,
        parameters=stage.model.count_params(),
    )
