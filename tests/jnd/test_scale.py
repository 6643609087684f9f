import pytest

from laser_dist.errors import UserError
from laser_dist.jnd.scale import QF, QP, scale_named


@pytest.mark.parametrize("scale", [QP, QF])
def test_a_scale_is_found_by_its_name(scale):
    assert scale_named(scale.name, of="dataset d") is scale


@pytest.mark.parametrize(("name", "got"), [("CRF", "CRF"), ("qp", "qp"), (None, "none"), (3, "3")])
def test_an_unknown_scale_is_the_users_to_mend(name, got):
    with pytest.raises(UserError, match=f"Scale of dataset d: expected one of QP, QF, got {got}"):
        scale_named(name, of="dataset d")


def test_each_scale_says_which_way_is_worse():
    assert QP.direction_text == "a higher QP is coarser"
    assert QF.direction_text == "a lower QF is coarser"
