import pytest

from laser_dist.errors import UserError
from laser_dist.jnd.scale import QF, QP, scale_named


@pytest.mark.parametrize("scale", [QP, QF])
def test_a_scale_is_found_by_its_name(scale):
    assert scale_named(scale.name, of="dataset d") is scale


@pytest.mark.parametrize(
    ("name", "problem"),
    [("CRF", 'is "CRF"'), ("qp", 'is "qp"'), (None, "is missing"), (3, 'is "3"')],
)
def test_an_unknown_scale_is_a_user_error(name, problem):
    with pytest.raises(UserError, match=f"The scale of dataset d {problem}; it must be QP or QF"):
        scale_named(name, of="dataset d")


@pytest.mark.parametrize(
    ("scale", "level", "nearest"),
    [(QP, 27.4, 27), (QP, 27.5, 28), (QP, 28.5, 29), (QP, -3.0, 1), (QP, 60.0, 51), (QF, 0.2, 1)],
)
def test_nearest_rounds_half_up_within_the_scale(scale, level, nearest):
    assert scale.nearest(level) == nearest


def test_each_scale_has_a_direction():
    assert QP.direction_text == "a higher QP is coarser"
    assert QF.direction_text == "a lower QF is coarser"
