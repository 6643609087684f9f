"""`laser-jnd models`: sizes and costs of the predictors."""

from __future__ import annotations

import argparse

from laser_dist.commands.terminal import Terminal

HELP = "list the predictors with their sizes, costs and training stages"
EXAMPLE = """\
example:
  laser-jnd models --preset tiny
"""
PRESETS = ("paper", "tiny")
HEADER = ("", "parameters", "trainable", "GMAC", "trains", "stages before")
NOTES = (
    "GMAC: billions of multiply-accumulates per frame, for",
    "prediction (e2e-lat: without the decoder it trains with).",
    "Three levels: mj-lat and mj-rec. One, here JND1: the others.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default=PRESETS[0],
        help="preset that sets the model sizes (default: %(default)s, the published sizes)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the table; the costs come from the specs, without building a model."""
    from laser_dist.models.complexity import Cost, decoder_cost, encoder_cost, predictor_cost
    from laser_dist.models.variants import VARIANTS
    from laser_dist.training.config import PRESETS as CONFIGS
    from laser_dist.training.plan import plan_stages

    def row(name: str, cost: Cost, *others: str) -> list[str]:
        return [
            name,
            f"{cost.parameters:,}",
            f"{cost.trainable:,}",
            f"{cost.macs / 1e9:.3g}",
            *others,
        ]

    configs = {each: CONFIGS[arguments.preset](each) for each in VARIANTS}
    backbone = next(iter(configs.values())).backbone
    rows: list[list[str]] = []
    for variant, config in configs.items():
        cost = predictor_cost(variant, config.backbone, config.head)
        *before, _ = [plan.name for plan in plan_stages(variant, (1, 2, 3)[: variant.num_levels])]
        rows.append(
            row(variant.name, cost, "all" if variant.end_to_end else "head", " ".join(before))
        )
    height, width, channels = backbone.latent_shape
    terminal = Terminal()
    terminal.say(
        f"Frames of {backbone.width}x{backbone.height},"
        f" latents of {width}x{height} with {channels} channels."
    )
    terminal.say()
    autoencoder = encoder_cost(backbone) + decoder_cost(backbone)
    terminal.table(HEADER, [[row("backbone", autoencoder, "all", "")], rows])
    terminal.say()
    for line in NOTES:
        terminal.say(line)
