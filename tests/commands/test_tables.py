import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from laser_dist.commands import evaluate, predict
from laser_dist.commands.terminal import Terminal
from laser_dist.evaluation.dataset import DatasetInfo
from laser_dist.evaluation.metrics import PredictorScore
from laser_dist.evaluation.quality_table import QualityCurve
from laser_dist.evaluation.results import assess
from laser_dist.evaluation.sources import SourceTable
from laser_dist.evaluation.sur_errors import compare_sur
from laser_dist.jnd.normal_sur import normal_level
from laser_dist.jnd.scale import QF, scale_named
from laser_dist.models.answer import Answer
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
SCORES = dict.fromkeys(("mj-lat", "constant", "si-ti-ridge", "si-ti-trees"), SCORE)


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
        assert file.getvalue().count(figure) == 4


@pytest.mark.parametrize(("columns", "lines"), [(60, 2), (80, 2), (120, 1)])
def test_intervals_stand_in_one_line_or_all_below_their_means(columns, lines):
    header, section = ["", *SCORES], evaluate.level_rows(SCORES, "QP")
    ((_, *rows),) = evaluate.within(columns, header, [section])
    assert {cell.count("\n") + 1 for row in rows[:3] for cell in row[1:]} == {lines}


def make_prediction(
    at_75, *, scale="QP", levels=(1, 2, 3), spreads=None, satisfied=0.75
) -> ClipPrediction:
    """Of one frame."""
    answered = np.array(at_75, np.float32)
    widths = None if spreads is None else np.array(spreads, np.float32)
    at_share = normal_level(
        answered, 0.0 if widths is None else widths, satisfied, scale=scale_named(scale, of="it")
    )
    return ClipPrediction(
        answer=Answer(
            variant="mj-lat",
            levels=levels[: len(answered)],
            scale=scale,
            simulated=True,
            spread=spreads is not None,
        ),
        levels=answered,
        spreads=widths,
        per_frame=answered[None],
        timestamps_s=(0.5,),
        satisfied=satisfied,
        at_share=at_share,
        quantizers=np.rint(at_share).astype(int),
    )


def said(results, columns, monkeypatch):
    """What is printed of an evaluation."""
    monkeypatch.setenv("COLUMNS", str(columns))
    file = io.StringIO()
    evaluate.say_results(Terminal(file), results)
    return file.getvalue()


@pytest.fixture
def results():
    """Of quality factors; one clip's bits are not known, and no clip has a third level."""
    levels = np.array([[34, 23, 18], [40, 30, 20], [28, 22, 19]], np.float64)
    there = levels * np.where([True, True, False], 1, np.nan)
    names = ("a", "b", "c")
    test = SourceTable(source_ids=names, group_ids=names, levels=there, activity=np.ones((3, 2)))
    factors = np.arange(1.0, 101)
    curve = QualityCurve(factors, 20 + factors / 4, 1e4 * factors)
    curves = dict.fromkeys(names, curve)
    curves["b"] = replace(curve, num_bits=np.full(100, np.nan))
    predictions = {"mj-lat": levels + 1, "constant": levels * 0 + 25, "si-ti-ridge": levels + 3}
    info = DatasetInfo(name="d", version="1", fingerprint="f", simulated=False, scale=QF)
    return assess(test, curves, predictions, dataset=info, model="mj-lat", seed=0)


def test_an_evaluation_of_quality_factors_says_so_and_fits(results, monkeypatch):
    text = said(results, 80, monkeypatch)
    assert "QP" not in text
    assert "nan" not in text
    assert "|ΔQF|" in text
    assert max(map(len, text.splitlines())) <= 80
    block = text[text.index("bits saved, against QF 100") :].splitlines()
    assert block[0].split()[-2:] == ["viewers", "mj-lat"]
    rows = [line.split("  ") for line in block if line.startswith("JND")]
    assert [row[0] for row in rows] == ["JND1", "JND2", "JND3"]
    assert [rows[2][-1].strip(), rows[2][-2].strip()] == ["–", ""]
    assert "Bits are not known of 1 clip." in text


def test_where_no_bits_are_known_the_block_is_left_out(results, monkeypatch):
    saved = replace(results.bits_saved, num_sources=0, num_left_out=6)
    text = said(replace(results, bits_saved=saved), 80, monkeypatch)
    assert "bits saved" not in text
    assert "Bits are not known of 6 clips." in text


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        ("QP", "QP (as predicted, before rounding); a higher QP is coarser."),
        ("QF", "QF (as predicted, before rounding); a lower QF is coarser."),
    ],
)
def test_predictions_say_what_they_count_in_and_which_way_is_coarser(scale, sentence):
    prediction = make_prediction([34.2, 23.7, 18.4], scale=scale)
    config = {"variant": "mj-lat", "dataset": {"simulated": False, "scale": scale}}
    file = io.StringIO()
    predict.say_predictions(Terminal(file), [Path("a.png")], [prediction], config)
    assert sentence in file.getvalue()
    told = predict.to_json([Path("a.png")], [prediction], config, "run")
    assert json.loads(told)[0]["scale"] == scale
    other = ({"QP", "QF"} - {scale}).pop()
    assert other not in file.getvalue()
    assert other.lower() not in told.lower()


def test_a_path_is_not_broken_however_long():
    file = io.StringIO()
    Terminal(file).say("/" + "x" * 300)
    assert file.getvalue() == "/" + "x" * 300 + "\n"


def test_predictions_as_json():
    prediction = make_prediction([26.6, 31.0, 35.2])
    config = {"variant": "mj-lat", "dataset": {"simulated": True, "scale": "QP"}}
    (document,) = json.loads(predict.to_json(["a.mp4"], [prediction], config, "run"))
    assert document["clip"] == "a.mp4"
    assert (document["scale"], document["satisfied"]) == ("QP", 0.75)
    assert document["quantizers"] == {"jnd1": 27, "jnd2": 31, "jnd3": 35}
    expected = {"jnd1": 26.6, "jnd2": 31.0, "jnd3": 35.2}
    assert document["levels"] == pytest.approx(expected, abs=1e-5)
    assert document["levels_per_frame"]["jnd2"] == [31.0]
    assert "spreads" not in document
    assert document["simulated"] is True


def test_spreads_and_the_share_are_told_where_there_are_any():
    prediction = make_prediction([26.6, 35.2], levels=(1, 3), spreads=[2.0, 4.0], satisfied=0.9)
    config = {"variant": "lat", "dataset": {"simulated": True, "scale": "QP"}}
    (document,) = json.loads(predict.to_json(["a.mp4"], [prediction], config, "run"))
    assert document["satisfied"] == 0.9
    assert document["spreads"] == {"jnd1": 2.0, "jnd3": 4.0}
    assert document["levels"] == pytest.approx({"jnd1": 26.6, "jnd3": 35.2}, abs=1e-5)
    # 0.607 spreads better than the levels: the normal distribution's 10 % lie so far from its 25 %.
    assert document["quantizers"] == {"jnd1": 25, "jnd3": 33}
    file = io.StringIO()
    predict.say_predictions(Terminal(file), [Path("a.mp4")], [prediction], config)
    text = file.getvalue()
    assert text.splitlines()[0].split() == ["clip", "JND1", "JND3"]
    assert "25 (25.4 ± 2.0)" in text
    assert "33 (32.8 ± 4.0)" in text
    assert "QP at which 90 % of the viewers are satisfied (as predicted" in text
    assert "± the viewers' standard deviation" in text


def test_a_level_shows_what_was_rounded():
    assert predict.level_texts(make_prediction([26.63, 31.0])) == ["27 (26.6)", "31 (31.0)"]


@pytest.mark.parametrize("columns", [60, 80])
def test_curves_of_satisfied_viewers_are_told_where_the_model_gives_spreads(
    results, columns, monkeypatch
):
    assert "satisfied" not in said(results, columns, monkeypatch)
    viewers = ((np.array([34, 36]), np.array([23, 25]), np.array([], int)),) * 3
    test = replace(results.test, viewer_samples=viewers)
    own, spreads = results.predictors["mj-lat"].predicted, np.full((3, 3), 1.5)
    sur = compare_sur(test, test, own, spreads, model="mj-lat", scale=QF, seed=0)
    text = said(replace(results, sur=sur), columns, monkeypatch)
    assert "satisfied viewers" in text
    assert max(map(len, text.splitlines())) <= columns
    score = sur.predictors["mj-lat"].score
    assert text.count(f"{score.abs_difference[0] * 100:.1f} %") >= 1
    assert "nan" not in text
