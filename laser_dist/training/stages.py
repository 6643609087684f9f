"""Trains the stages of a run, each from the models of the stages that it needs."""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from laser_dist.errors import UserError
from laser_dist.examples.example_codec import RAW, num_with, rows_with
from laser_dist.examples.feature_files import Extractor
from laser_dist.examples.features import ComputedFeatures, FeatureBatches
from laser_dist.examples.frame_cache import cached_frames
from laser_dist.examples.frame_pairs import FramePairs
from laser_dist.examples.frames import DecodedFrames, Frames, sample_frames
from laser_dist.examples.labels import (
    LABEL_COLUMNS,
    Labeled,
    labels_in,
    present_means,
)
from laser_dist.examples.order import has_level, num_steps
from laser_dist.examples.records import Records, open_examples
from laser_dist.jnd.scale import scale_named
from laser_dist.models.autoencoder import build_autoencoder, build_end_to_end_autoencoder
from laser_dist.models.heads import LEAST_SPREAD, build_head
from laser_dist.models.predictors import build_joint_model, feature_extractor
from laser_dist.models.principal import start_from_principal_components
from laser_dist.models.specs import BackboneSpec
from laser_dist.models.variants import variant_named
from laser_dist.storage.cache import cache_folder
from laser_dist.training.config import TrainingConfig
from laser_dist.training.feature_cache import FeatureCache
from laser_dist.training.learning.collectives import (
    all_agree,
    broadcast_from_chief,
    weigh_batch_norms,
)
from laser_dist.training.learning.loop import Batches, Stage, TrainingContext, train_stage
from laser_dist.training.learning.objectives import JointObjective, LevelObjective, frame_objective
from laser_dist.training.learning.step import Objective
from laser_dist.training.plan import StagePlan, plan_stages
from laser_dist.training.reuse import (
    MODELS,
    model_names,
    model_path,
    read_record,
    record_path,
    write_record,
)
from laser_dist.training.saving import PREDICTOR, finish_predictor, save_in_float32, seed_of
from laser_dist.training.storage.checkpoints import claim_folder

TRAIN, VALIDATION = "train", "validation"
FRAMES = "frames"  # folder of the cache
NUM_SAMPLE = 64  # frames whose principal components a backbone starts from

logger = logging.getLogger(__name__)


def run_stages(
    config: TrainingConfig,
    context: TrainingContext,
    work: Mapping[str, Mapping[str, Any]],
    stages: Collection[str],
) -> None:
    """Train stages of a run; every worker calls this.

    Args:
      config: configuration of the run.
      context: devices and storage of the run.
      work: for each stage that the run has to train, in order, `key` and `inputs` to record with
        its models. Other stages that they need are in the run's folder.
      stages: names of the stages to train here.

    Raises:
      UserError: no example of the training or validation split has a level, or the dataset lacks
        the viewers' samples that a head with spreads needs.
    """
    plans = plan_stages(variant_named(config.variant), config.levels)
    models = context.run_dir / MODELS
    with context.suspended():  # takes minutes for a large dataset in a bucket
        context.store.fetch_all(models)
        data = context.config["dataset"]
        opened = {
            split: open_examples(data["dir"], data["splits"][split], LABEL_COLUMNS)
            for split in (TRAIN, VALIDATION)
        }
    records = {split: of_split for split, (of_split, _) in opened.items()}
    labels = {split: labels_in(table) for split, (_, table) in opened.items()}
    trained = [plan for plan in plans if plan.name in stages]
    images = {RAW, *(f"jnd{plan.levels[0]}" for plan in trained if plan.kind in ("jnd", "joint"))}
    trainer = _Trainer(config, records, context, labels, tuple(sorted(images)))
    for plan in plans:
        if plan.name in work:
            _check_present(plan, config, labels, data["dir"])
    for plan in plans:
        if plan.name not in stages:
            continue
        key = str(work[plan.name]["key"])
        is_kept = context.store.fetch(record_path(context.run_dir, plan.name))
        record = read_record(context.run_dir, plan) if is_kept else None
        if all_agree(context.strategy, record is not None and record["key"] == key):
            logger.info("%s: already trained, reused", plan.name)
            continue
        # The start must not depend on which stages this process has trained before.
        keras.utils.set_random_seed(seed_of(config.seed, plan.name))
        trainer.train(plan, key)
        if context.is_chief:
            written = write_record(context.run_dir, plan, key, work[plan.name]["inputs"])
            context.store.push(written)
        context.wait_for_all()  # the next stage reads the chief's files
    if context.is_chief:
        context.store.fetch_all(models)  # other workers may have trained stages too
        with context.suspended():  # calibrates with the frames of the validation split
            finish_predictor(config, context.run_dir, data)
        context.store.push(*models.glob(f"{PREDICTOR}.keras"))
    context.wait_for_all()


def _check_present(
    plan: StagePlan, config: TrainingConfig, labels: Mapping[str, Labeled], dataset: str | Path
) -> None:
    """Check, before any training, that the dataset has what a stage learns from."""
    for split, of_split in labels.items():
        for level in plan.levels:
            if num_with(f"jnd{level}", of_split.levels) == 0:
                raise UserError(
                    f"None of the {len(of_split.levels)} examples in split {split} of {dataset} "
                    f"has the level JND{level}.",
                    hint="Build a larger dataset.",
                )
            has_samples = np.isfinite(of_split.sample_means[:, level - 1]).any()
            if plan.kind in ("head", "joint") and config.head.spread and not has_samples:
                raise UserError(
                    f"head.spread=true needs viewers' samples of JND{level}, but split {split} of "
                    f"{dataset} has none.",
                    hint="Train with head.spread=false.",
                )


@dataclass(frozen=True, eq=False)
class _Trainer:
    """Trains single stages with what all of them share."""

    config: TrainingConfig
    records: Mapping[str, Records]
    context: TrainingContext
    labels: Mapping[str, Labeled]
    images: tuple[str, ...]
    opened: dict[str, Frames] = field(default_factory=dict)

    def frames(self, split: str) -> Frames:
        """Return the frames of a split, decoded into the cache when first needed."""
        if split in self.opened:
            return self.opened[split]
        context, backbone = self.context, self.config.backbone
        decoded = DecodedFrames(self.records[split], (backbone.width, backbone.height))
        data = context.config["dataset"]
        about = [data["fingerprint"], sorted(data["splits"][split]), decoded.size]
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
        self.opened[split] = frames = cached_frames(
            decoded,
            self.images,
            cache_folder(FRAMES, f"{split}-{key}"),
            1e9 * self.config.frame_cache_gb,
            name=f"frames of {split}",
            heartbeat=lambda: context.heartbeat(f"frames of {split}"),
            waiting=context.suspended,
        )
        context.wait_for_all()  # other machines may have more to decode
        return frames

    def train(self, plan: StagePlan, key: str) -> None:
        """Train a stage and save its models; resume only from checkpoints of the same key."""
        if self.context.is_chief:
            folder = self.context.run_dir / "checkpoints" / plan.name
            claim_folder(self.context.store, folder, key)
        self.context.wait_for_all()
        {"head": self.head, "joint": self.joint}.get(plan.kind, self.backbone)(plan)

    def backbone(self, plan: StagePlan) -> None:
        """Train an autoencoder, from principal components or from the image backbone."""
        config, is_image = self.config, plan.kind == "image"
        side = config.scaled(plan.kind).crop
        spec = (
            config.backbone if side is None else replace(config.backbone, height=side, width=side)
        )
        start = self._start(spec) if is_image else self._loaded("image").get_weights()
        # Convolutions fit any size: weights learned on squares are used on full frames.
        with self.context.strategy.scope():
            model = build_autoencoder(spec, plan.name)
            model.set_weights(start)
        self._train(plan, model, frame_objective, partial(self._pairs, plan))
        self._save(lambda: build_autoencoder(config.backbone, plan.name), model, plan.name)

    def head(self, plan: StagePlan) -> None:
        """Train a head on features of its frozen backbones."""
        config, variant = self.config, variant_named(self.config.variant)
        settings = config.scaled("heads")
        devices = self.context.local_devices if config.feature_cache else (None,)
        models = {
            name: [feature_extractor(variant, self._loaded(name, devices[0]))]
            for name in plan.needs
        }
        # Before the copies for other devices: each new model draws random numbers, and the head
        # must start the same on any number of devices.
        with self.context.strategy.scope():
            head = self._new_head(plan)
        for name in plan.needs:
            models[name] += [
                feature_extractor(variant, self._loaded(name, device)) for device in devices[1:]
            ]
        extractors = {name: Extractor(each, devices) for name, each in models.items()}
        versions = 2 if settings.flips else 1
        if config.feature_cache:
            counts = {split: len(records) for split, records in self.records.items()}
            cache = FeatureCache(self.frames, counts, self.context, variant.space)
            features = {
                split: cache.features(split, extractors, number)
                for split, number in ((TRAIN, versions), (VALIDATION, 1))
            }
        else:
            features = {
                split: ComputedFeatures(
                    self.frames(split), [each.model for each in extractors.values()]
                )
                for split in (TRAIN, VALIDATION)
            }

        def batches(split: str, seed: int | None) -> FeatureBatches:
            return FeatureBatches(
                features=features[split],
                targets=self._targets(plan, split),
                batch_size=settings.batch_size,
                shard=self.context.shard,
                seed=seed,
                num_versions=versions,
                mixup=settings.mixup,
            )

        self._train(plan, head, self._level_objective(plan), batches)
        self._save(lambda: self._new_head(plan), head, plan.name)

    def joint(self, plan: StagePlan) -> None:
        """Train backbone and head together, from the image backbone."""
        config, variant = self.config, variant_named(self.config.variant)
        image = self._loaded("image")

        def new_autoencoder() -> keras.Model:
            return build_end_to_end_autoencoder(config.backbone, image, plan.name)

        with self.context.strategy.scope():
            autoencoder, head = new_autoencoder(), self._new_head(plan)
            model = build_joint_model(variant, autoencoder, head)
        objective = JointObjective(self._level_objective(plan))
        self._train(plan, model, objective, partial(self._pairs, plan))
        self._save(new_autoencoder, autoencoder, plan.name)
        self._save(lambda: self._new_head(plan), head, model_names(plan)[-1])

    def _train(
        self,
        plan: StagePlan,
        model: keras.Model,
        objective: Objective,
        batches: Callable[[str, int | None], Batches],
    ) -> None:
        """Train a model on the batches of the splits; `batches` takes split and seed."""
        config, levels = self.config, self.labels[TRAIN].levels
        has_target = has_level(levels[:, [level - 1 for level in plan.levels]])
        num_examples = int(has_target.sum()) if plan.levels else len(levels)
        settings = config.scaled(plan.settings)
        synchronized = config.synchronized_batch_norm
        weigh_batch_norms(self.context.strategy, model, synchronized=synchronized)
        stage = Stage(
            name=plan.name,
            model=model,
            objective=objective,
            settings=settings,
            training=batches(TRAIN, config.seed),
            validation=batches(VALIDATION, None),
            steps_per_epoch=num_steps(num_examples, settings.batch_size),
            settings_name=plan.settings,
        )
        train_stage(stage, self.context)

    def _save(self, build: Callable[[], keras.Model], model: keras.Model, name: str) -> None:
        if self.context.is_chief:
            path = model_path(self.context.run_dir, name)
            save_in_float32(build, model.get_weights(), path)
            self.context.store.push(path)

    def _loaded(self, name: str, device: str | None = None) -> keras.Model:
        """Load a finished backbone that computes at the run's precision, on a device."""
        path = model_path(self.context.run_dir, name)
        if not self.context.is_chief:
            with self.context.suspended():
                self.context.store.await_file(path)
        with tf.device(device):
            model = build_autoencoder(self.config.backbone, name)
            model.load_weights(path)
        return model

    def _start(self, spec: BackboneSpec) -> list[np.ndarray]:
        """Return the start weights of the image backbone, the same on every worker."""
        # Outside the strategy's scope: plain variables, which each worker computes on its own.
        model = build_autoencoder(spec, "start")
        if self.config.backbone_start == "principal":
            frames = sample_frames(self.frames(TRAIN), NUM_SAMPLE)
            start_from_principal_components(model, frames)
            logger.info("image: starting from the principal components of %d frames", len(frames))
        return broadcast_from_chief(self.context.strategy, model.get_weights())

    def _new_head(self, plan: StagePlan) -> keras.Model:
        config, labels = self.config, self.labels[TRAIN]
        columns = [level - 1 for level in plan.levels]
        start: np.ndarray | None = None
        spreads: np.ndarray | None = None
        if config.head.start == "mean":
            start = present_means(labels.levels[:, columns])
        if config.head.spread:
            variances = present_means(labels.sample_variances[:, columns])
            spreads = np.maximum(np.sqrt(variances), 2 * LEAST_SPREAD)
        return build_head(
            config.head,
            variant_named(config.variant).feature_shape(config.backbone),
            levels=len(plan.levels),
            initial_levels=None if start is None else start.tolist(),
            initial_spreads=None if spreads is None else spreads.tolist(),
            higher_is_worse=self._higher_is_worse,
            name=model_names(plan)[-1],
        )

    def _level_objective(self, plan: StagePlan) -> LevelObjective:
        return LevelObjective(plan.levels, self.config.head.spread, self._higher_is_worse)

    @property
    def _higher_is_worse(self) -> bool:
        name = self.context.config["dataset"]["scale"]
        return scale_named(name, of="the dataset").higher_is_worse

    def _targets(self, plan: StagePlan, split: str) -> np.ndarray:
        return self.labels[split].targets(plan.levels, spread=self.config.head.spread)

    def _pairs(self, plan: StagePlan, split: str, seed: int | None) -> FramePairs:
        settings = self.config.scaled(plan.settings)
        target = f"jnd{plan.levels[0]}" if plan.levels else RAW
        return FramePairs(
            frames=self.frames(split),
            target=target,
            rows=rows_with(target, self.labels[split].levels),
            batch_size=settings.batch_size,
            shard=self.context.shard,
            seed=seed,
            flips=settings.flips and seed is not None,
            crop=settings.crop,
            crops_per_frame=settings.crops_per_frame,
            labels=self._targets(plan, split) if plan.kind == "joint" else None,
        )
