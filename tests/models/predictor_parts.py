"""Predictors with as few parts as possible, for tests."""

from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.predictors import build_predictor


def spec_of(variant, **changes):
    levels = (1, 2, 3) if variant.num_levels == 3 else (1,)
    settings = {"levels": levels, "scale": "QP", "simulated": True, **changes}
    return PredictorSpec(variant=variant.name, **settings)


def predictor_of(variant, autoencoders, head):
    """Build a predictor of all levels, or only of the first."""
    return build_predictor(autoencoders, [head], spec_of(variant))
