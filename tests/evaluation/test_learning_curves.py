import pytest

from laser_dist.errors import UserError
from laser_dist.evaluation.learning_curves import curves_from_rows, read_curves


def row(epoch, value, metric="loss", stage="image"):
    return {"stage": stage, "epoch": str(epoch), "metric": metric, "value": str(value)}


def test_curves_keep_their_first_order_and_ascend_in_epochs():
    rows = [row(2, 1.0), row(1, 3.0), row(1, 9.0, stage="heads"), row(1, 4.0, metric="val_loss")]
    curves = curves_from_rows(rows)
    assert [(curve.stage, curve.metric) for curve in curves] == [
        ("image", "loss"),
        ("heads", "loss"),
        ("image", "val_loss"),
    ]
    assert curves[0].epochs.tolist() == [1, 2]
    assert curves[0].values.tolist() == [3.0, 1.0]


def test_an_epoch_logged_again_after_a_resume_counts_once_and_as_logged_last():
    (curve,) = curves_from_rows([row(1, 5.0), row(2, 4.0), row(2, 3.0)])
    assert curve.values.tolist() == [5.0, 3.0]


def test_values_that_cannot_be_drawn_are_left_out():
    assert curves_from_rows([row(1, "nan")]) == ()


def test_a_run_without_a_log_has_no_curves(tmp_path):
    assert read_curves(tmp_path / "metrics") == ()


@pytest.mark.parametrize(
    ("text", "got"),
    [("epoch,loss\n1,2\n", "no column stage"), ("stage,epoch,metric,value\na,b,c,d\n", "float")],
)
def test_a_log_of_another_form_is_named(tmp_path, text, got):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=got):
        read_curves(tmp_path)
