import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.errors import UserError
from laser_dist.jnd.normal_sur import normal_sur
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
    ("scale", "level", "quantizer"),
    [(QP, 27.0, 27), (QP, 27.5, 27), (QP, 27.9, 27), (QP, -3.5, 1), (QP, 0.9, 1), (QP, 60.0, 51)]
    + [(QF, 40.0, 40), (QF, 40.1, 41), (QF, 40.9, 41), (QF, -0.2, 1), (QF, 99.5, 100)],
)
def test_a_level_is_rounded_to_the_finer_side_within_the_scale(scale, level, quantizer):
    assert scale.quantizer_at(level) == quantizer


@pytest.mark.parametrize("scale", [QP, QF], ids=lambda scale: scale.name)
@given(level=st.floats(1, 51), spread=st.floats(0.1, 9))
def test_rounding_never_lowers_the_share_of_satisfied_viewers(scale, level, spread):
    share = normal_sur(level, spread, float(scale.quantizer_at(level)), scale=scale)
    assert share >= 0.75


def test_each_scale_has_a_direction():
    assert QP.direction_text == "a higher QP is coarser"
    assert QF.direction_text == "a lower QF is coarser"
