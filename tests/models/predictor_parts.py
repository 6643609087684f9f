"""Predictors as the tests build them: of the fewest parts."""

from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.predictors import build_predictor


def answer(variant, **changes):
    levels = (1, 2, 3) if variant.num_levels == 3 else (1,)
    settings = {"levels": levels, "scale": "QP", "simulated": True, **changes}
    return PredictorSpec(variant=variant.name, **settings)


def predictor_of(variant, autoencoders, head):
    """All levels at once, or the first alone."""
    return build_predictor(autoencoders, [head], answer(variant))
