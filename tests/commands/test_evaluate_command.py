import io
from dataclasses import replace

import numpy as np
import pytest

from laser_dist.commands import evaluate
from laser_dist.commands.terminal import Terminal
from laser_dist.evaluation.dataset import DatasetInfo, SourceTable
from laser_dist.evaluation.metrics import (
    MARGINS,
    OVERSHOOT,
    WITHIN,
    Difference,
    MarginCurve,
    PredictionInterval,
    PredictorScore,
)
from laser_dist.evaluation.quality_curves import QualityCurve
from laser_dist.evaluation.results import Predictions, assess
from laser_dist.evaluation.sur_metrics import compare_sur, constant_sur, network_sur
from laser_dist.jnd.scale import QF

THREE = (0.5, 0.5, 0.5)
INTERVALS = ((2.0, 3.0), (2.5, 3.5), (9.0, 11.5))
SCORE = PredictorScore(
    abs_error=(2.5, 3.0, 10.25),
    abs_error_interval=INTERVALS,
    bias=THREE,
    bias_interval=INTERVALS,
    rmse=THREE,
    pearson=THREE,
    spearman=THREE,
    within=dict.fromkeys(WITHIN, THREE),
    overshoot=dict.fromkeys(OVERSHOOT, THREE),
    abs_psnr_error_db=(1.5, 2.0, 2.5),
    abs_psnr_error_db_interval=((1.0, 2.0), (1.5, 2.5), (2.0, 3.0)),
    extra_bits=THREE,
    missing_bits=THREE,
    sur_at_level=THREE,
    margin=MarginCurve(MARGINS, (THREE,) * len(MARGINS), (THREE,) * len(MARGINS)),
    mean_abs_error=5.25,
    ratio_to_constant=0.75,
    ratio_to_constant_interval=(0.7, 0.8),
)


SCORES = dict.fromkeys(("mj-lat", "constant", "si-ti-ridge", "si-ti-trees"), SCORE)


def test_sections_show_errors_psnr_and_ratio():
    interval = PredictionInterval(0.9, (3.125, 4.0, 5.0), (0.912, 0.9, 1.0))
    one = replace(SCORE, prediction_interval=interval, differences={})
    levels, psnr, intervals, ratio = evaluate.error_sections([one], "QP")
    assert levels == [
        ["|ΔQP|", ""],
        ["JND1", "2.50 (2.00–3.00)"],
        ["JND2", "3.00 (2.50–3.50)"],
        ["JND3", "10.25 (9.00–11.50)"],
        ["mean", "5.25"],
    ]
    assert psnr[1] == ["JND1", "1.50 dB"]
    assert intervals[:2] == [["± QP", ""], ["JND1", "3.12 (91.2%)"]]
    assert ratio == [["ratio", "0.75 (0.70–0.80)"]]


def test_the_difference_from_each_other_column_is_paired():
    nan = float("nan")
    differences = {"a": Difference(-0.254, (-0.5, 0.0)), "b": Difference(1.0, (nan, nan))}
    scores = [replace(SCORE, differences=differences), SCORE, SCORE]
    *_, section = evaluate.error_sections(scores, "QP")
    assert section == [["difference", "–", "-0.25 (-0.50 to +0.00)", "–"]]


@pytest.mark.parametrize(("columns", "lines"), [(60, 2), (80, 2), (120, 1)])
def test_the_table_fits_the_terminal(columns, lines, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    header = ["", *SCORES]
    sections = evaluate.error_sections(list(SCORES.values()), "QP")
    wrapped = evaluate.wrap_intervals(columns, header, sections)
    cells = [cell for row in wrapped[0][1:4] for cell in row[1:]]
    assert {cell.count("\n") + 1 for cell in cells} == {lines}
    file = io.StringIO()
    Terminal(file).table(header, wrapped)
    assert max(map(len, file.getvalue().splitlines())) <= columns
    for value in ("(2.00–3.00)", "10.25", "(9.00–11.50)"):
        assert file.getvalue().count(value) == len(SCORES)


def printed(results, columns, monkeypatch):
    """Return what is printed of an evaluation."""
    monkeypatch.setenv("COLUMNS", str(columns))
    file = io.StringIO()
    evaluate.print_results(Terminal(file), results, "runs/first")
    return file.getvalue()


@pytest.fixture
def results():
    """Return results in quality factors: one clip has no sizes, and none has a third level."""
    levels = np.array([[34, 23, 18], [40, 30, 20], [28, 22, 19]], np.float64)
    known = levels * np.where([True, True, False], 1, np.nan)
    names = ("a", "b", "c")
    test = SourceTable(source_ids=names, group_ids=names, levels=known, activity=np.ones((3, 2)))
    factors = np.arange(1.0, 101)
    curve = QualityCurve(factors, 20 + factors / 4, 1e4 * factors)
    curves = dict.fromkeys(names, curve)
    curves["b"] = replace(curve, num_bits=np.full(100, np.nan))
    predictions = {"mj-lat": levels + 1, "constant": levels * 0 + 25, "si-ti-ridge": levels + 3}
    info = DatasetInfo(name="d", version="1", fingerprint="f", simulated=False, scale=QF)
    return assess(test, curves, Predictions(predictions), dataset=info)


def test_results_in_quality_factors_do_not_mention_qp(results, monkeypatch):
    text = printed(results, 80, monkeypatch)
    assert "QP" not in text
    assert "nan" not in text
    assert "|ΔQF|" in text
    assert max(map(len, text.splitlines())) <= 80
    block = text[text.index("bits saved vs. QF 100") :].splitlines()
    assert block[0].split()[-2:] == ["viewers", "mj-lat"]
    rows = [line.split("  ") for line in block if line.startswith("JND")]
    assert [row[0] for row in rows] == ["JND1", "JND2", "JND3"]
    assert [rows[2][-1].strip(), rows[2][-2].strip()] == ["–", ""]
    assert "Bit counts are unknown for 1 clip." in text


def test_without_bit_counts_there_is_no_table_of_bits_saved(results, monkeypatch):
    saved = replace(results.bits_saved, num_sources=0, num_left_out=6)
    text = printed(replace(results, bits_saved=saved), 80, monkeypatch)
    assert "bits saved" not in text
    assert "Bit counts are unknown for 6 clips." in text


@pytest.mark.parametrize("columns", [60, 80])
def test_sur_errors_are_printed_if_the_model_predicts_spreads(results, columns, monkeypatch):
    assert "SUR" not in printed(results, columns, monkeypatch)
    viewers = ((np.array([34, 36]), np.array([23, 25]), np.array([], int)),) * 3
    test = replace(results.test, viewer_samples=viewers)
    spreads = np.full((3, 3), 1.5)
    curves = {
        "mj-lat": network_sur(results.network.predicted, spreads, QF),
        "constant": constant_sur(test, 3, QF),
    }
    sur = compare_sur(test, curves, spreads, QF)
    text = printed(replace(results, sur=sur), columns, monkeypatch)
    assert "SUR error, QF" in text
    assert max(map(len, text.splitlines())) <= columns
    score = sur.predictors["mj-lat"].score
    assert text.count(f"{score.wasserstein[0]:.2f} (") >= 1
    assert "nan" not in text
