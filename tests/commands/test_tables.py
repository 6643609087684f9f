import io
import json

import numpy as np
import pytest

from laser_dist.commands import evaluate, predict
from laser_dist.commands.terminal import Terminal
from laser_dist.evaluation.metrics import PredictorScore
from laser_dist.prediction.predict import ClipPrediction

SCORE = PredictorScore(
    abs_error=(2.5, 3.0, 10.25),
    abs_error_interval=((2.0, 3.0), (2.5, 3.5), (9.0, 11.5)),
    abs_psnr_error_db=(1.5, 2.0, 2.5),
    abs_psnr_error_db_interval=((1.0, 2.0), (1.5, 2.5), (2.0, 3.0)),
    mean_abs_error=5.25,
    ratio_to_constant=0.75,
    ratio_to_constant_interval=(0.7, 0.8),
)
SCORES = {"mj-lat": SCORE, "constant": SCORE, "si-ti-ridge": SCORE}


def test_rows_of_the_figures():
    rows = evaluate.level_rows({"mj-lat": SCORE}, "QP")
    assert rows == [
        ["|ΔQP|", ""],
        ["JND1", "2.50 (2.00–3.00)"],
        ["JND2", "3.00 (2.50–3.50)"],
        ["JND3", "10.25 (9.00–11.50)"],
        ["mean", "5.25"],
    ]
    assert evaluate.psnr_rows({"mj-lat": SCORE})[1] == ["JND1", "1.50 dB"]
    assert evaluate.ratio_rows({"mj-lat": SCORE}) == [["ratio", "0.75 (0.70–0.80)"]]


@pytest.mark.parametrize("columns", [60, 80])
def test_the_table_fits_and_keeps_every_figure(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    file = io.StringIO()
    sections = [evaluate.level_rows(SCORES, "QP"), evaluate.ratio_rows(SCORES)]
    Terminal(file).table(["", *SCORES], sections)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    for figure in ("(2.00–3.00)", "10.25", "(9.00–11.50)"):  # in one line, or in two
        assert file.getvalue().count(figure) == 3


def test_a_path_is_not_broken_however_long():
    file = io.StringIO()
    Terminal(file).say("/" + "x" * 300)
    assert file.getvalue() == "/" + "x" * 300 + "\n"


def test_predictions_as_json():
    prediction = ClipPrediction(
        levels=np.array([26.6, 31.0, 35.2], np.float32),
        per_frame=np.array([[26.6, 31.0, 35.2]], np.float32),
        timestamps_s=(0.5,),
        quantisers=np.array([27, 31, 35]),
    )
    config = {"variant": "mj-lat", "dataset": {"simulated": True, "scale": "QP"}}
    (document,) = json.loads(predict.to_json(["a.mp4"], [prediction], config, "run"))
    assert document["clip"] == "a.mp4"
    assert (document["scale"], document["quantisers"]) == ("QP", [27, 31, 35])
    assert document["levels"] == pytest.approx([26.6, 31.0, 35.2], abs=1e-5)
    assert document["simulated"] is True


def test_a_level_shows_what_was_rounded():
    assert predict.level_texts([27, 31], [26.63, 31.0]) == ["27 (26.6)", "31 (31.0)"]
