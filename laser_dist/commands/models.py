"""`laser-jnd models`: what the predictors are made of, and what they cost."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from laser_dist.commands.terminal import Terminal

if TYPE_CHECKING:
    from laser_dist.models.variants import Variant
    from laser_dist.training.config import TrainingConfig

HELP = "list the predictors with their sizes, costs and stages"
EXAMPLE = """\
example:
  laser-jnd models --preset tiny
"""
PRESETS = ("paper", "tiny")
BACKBONE = "backbone"
HEADER = ("", "parameters", "trainable", "GMAC", "trains", "stages before")
NOTES = (
    "GMAC: thousand million multiply-accumulates a frame.",
    "Counted is what predicts, so e2e-lat without the decoder",
    "that it is trained with. mj: three levels at once; the",
    "others one, here JND1.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default=PRESETS[0],
        help="whose sizes (default: %(default)s, the published ones)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Builds each model, counts and prints the table."""
    terminal = Terminal()
    with terminal.progress() as show:
        show("building the models")
        from laser_dist.models.variants import VARIANTS
        from laser_dist.training.config import PRESETS as CONFIGS

        configs = {each: CONFIGS[arguments.preset](each) for each in VARIANTS}
        backbone = next(iter(configs.values())).backbone
        rows = [backbone_row(next(iter(configs.values())))]
        for variant, config in configs.items():
            show(f"building {variant.name}")
            rows.append(predictor_row(variant, config))
    height, width, channels = backbone.latent_shape
    terminal.say(
        f"Frames of {backbone.width}x{backbone.height},"
        f" latents of {width}x{height} with {channels} channels."
    )
    terminal.say()
    terminal.table(HEADER, [rows[:1], rows[1:]])
    terminal.say()
    for line in NOTES:
        terminal.say(line)


def backbone_row(config: TrainingConfig) -> list[str]:
    """The row of the autoencoder, of which every predictor has one or three."""
    from laser_dist.models.autoencoder import build_autoencoder

    autoencoder = build_autoencoder(config.backbone, BACKBONE)
    return [BACKBONE, *sizes(autoencoder), "all", ""]


def predictor_row(variant: Variant, config: TrainingConfig) -> list[str]:
    """The row of one variant: for a single-level one, of its first level."""
    from laser_dist.models.autoencoder import build_autoencoder
    from laser_dist.models.heads import build_head
    from laser_dist.models.predictor_spec import PredictorSpec
    from laser_dist.models.predictors import build_predictor
    from laser_dist.training.plan import plan_stages

    levels = (1, 2, 3)[: variant.num_levels]
    autoencoders = [
        build_autoencoder(config.backbone, name) for name in variant.required_backbones()
    ]
    head = build_head(
        config.head, variant.feature_shape(config.backbone), levels=variant.num_levels
    )
    answer = PredictorSpec(variant=variant.name, levels=levels, scale="QP", simulated=False)
    predictor = build_predictor(autoencoders, [head], answer)
    *before, _ = [plan.name for plan in plan_stages(variant, levels)]
    trains = "all" if variant.end_to_end else "head"
    return [variant.name, *sizes(predictor), trains, " ".join(before)]


def sizes(model: Any) -> list[str]:
    """Parameters, those that are trained, and GMAC for one frame."""
    from laser_dist.models.complexity import count_macs

    return [
        f"{model.count_params():,}",
        f"{count(model.trainable_weights):,}",
        f"{count_macs(model) / 1e9:.3g}",
    ]


def count(weights: Iterable[Any]) -> int:
    """How many numbers weights hold."""
    return sum(math.prod(weight.shape) for weight in weights)
