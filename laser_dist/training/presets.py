"""Ready-made configurations. Each states the command, what to expect and how long it takes."""

from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.training.config import ClusterConfig, StageConfig, TrainingConfig


def demo() -> TrainingConfig:
    """Small enough for two cores and a few minutes, on the miniature's 320x176 frames.

    Command: `laser-jnd train mj-lat --preset demo --dataset DIR`.
    """
    return TrainingConfig(
        variant="mj-lat",
        backbone=BackboneSpec(filters=24, latent_filters=32, height=176, width=320),
        head=HeadSpec(filters=(32, 48, 64, 96), dense=(64,), pooling="average"),
        image=StageConfig(epochs=4, batch_size=8, learning_rate=1e-3, schedule="cosine"),
        jnd=StageConfig(epochs=1, batch_size=8, learning_rate=5e-4, schedule="cosine"),
        heads=StageConfig(
            epochs=30, batch_size=16, learning_rate=1e-3, schedule="cosine", flips=True
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
