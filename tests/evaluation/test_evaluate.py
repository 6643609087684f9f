import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_fakes import (
    MODEL,
    VIEWERS_SPREAD,
    make_curve,
    make_frames,
    make_info,
    make_results,
    make_sources,
    with_gaps,
    with_viewers,
)

from laser_dist.errors import UserError
from laser_dist.evaluation import baselines
from laser_dist.evaluation.evaluate import calibrate, evaluate_on, named, notes_on
from laser_dist.evaluation.results import Predictions, to_json
from laser_dist.evaluation.trained_run import TrainedRun
from laser_dist.jnd.scale import QF
from laser_dist.models.predictors import PredictorSpecLayer
from laser_dist.prediction.keras_models import from_model
from laser_dist.prediction.load import load_predictor
from laser_dist.prediction.predict import predict_frames

pytestmark = pytest.mark.slow


class MemoryDataset:
    """A dataset in memory with two frames per source, whose first pixel holds the levels."""

    def __init__(self, folder, *, gaps=(), train_gaps=(), viewers=False, **info_changes):
        self.tables = {
            "train": with_gaps(make_sources(30), *train_gaps),
            "test": with_gaps(make_sources(9, seed=1, first=101), *gaps),
        }
        if viewers:
            self.tables = {name: with_viewers(table) for name, table in self.tables.items()}
        splits = {name: table.source_ids for name, table in self.tables.items()}
        self.info = make_info(**({"splits": splits} | info_changes))
        self.quality_path = folder / "quality"
        self.quality_path.mkdir()
        scale = self.info.scale
        curve = make_curve(scale=scale)
        rows = [
            {
                "source_id": source_id,
                scale.name.lower(): int(quantizer),
                "psnr_rgb_db": psnr,
                "psnr_y_min_db": psnr,
                "num_bits": int(bits),
                "bitrate_kbps": bits / 1000 / curve.seconds,
            }
            for table in self.tables.values()
            for source_id in table.source_ids
            for quantizer, psnr, bits in zip(
                curve.quantizers, curve.psnr_rgb_db, curve.num_bits, strict=True
            )
        ]
        pq.write_table(pa.Table.from_pylist(rows), self.quality_path / "part.parquet")

    def sources(self, split):
        return self.tables[split]

    def raw_batches(self, split):
        table = self.tables[split]
        for source_id, levels in zip(table.source_ids, table.levels, strict=True):
            raw = np.zeros((2, 16, 32, 3), np.uint8)
            # One frame is 1 QP too low, the other 1 QP too high: their mean is exact.
            known = np.nan_to_num(levels, nan=200)
            raw[0], raw[1] = known - 1, known + 1
            yield [source_id] * 2, raw

    def first_frames(self, split):
        return ((one, make_frames(one).raw) for one in self.tables[split].source_ids)

    def middle_frames(self, split, source_ids):
        return {source_id: make_frames(source_id) for source_id in source_ids}


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch):
    """Fit a few trees: most of an evaluation is spent on them, and test_baselines.py tests them."""
    monkeypatch.setattr(baselines, "MAX_TREES", 5)


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch):
    """Let predictions take no time, so that the same evaluation gives the same files."""
    monkeypatch.setattr("laser_dist.evaluation.evaluate.time.perf_counter", lambda: 0.0)


def make_run(**changes):
    run = TrainedRun(
        path="runs/demo/run",
        name=MODEL,
        dataset="videoset_jnd/synthetic 1.0.0",
        fingerprint=make_info().fingerprint,
        simulated=True,
        trained_on=frozenset(),
        width=32,
        height=16,
        predict=lambda raw: raw[:, 0, 0].astype(np.float32),
        backbones=dict.fromkeys((1, 2, 3), lambda raw: raw),
    )
    return replace(run, **changes)


def test_predictions_are_averaged_over_frames_before_the_comparison(tmp_path):
    results = evaluate_on(MemoryDataset(tmp_path), [make_run()], tmp_path / "out")
    assert results.predictors[MODEL].score.abs_error == (0, 0, 0)
    assert results.predictors[MODEL].score.abs_psnr_error_db == (0, 0, 0)


def test_results_predictions_and_report_are_written(tmp_path):
    results = evaluate_on(MemoryDataset(tmp_path), [make_run()], tmp_path / "out")
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["simulated"] is True
    assert (document["format"], document["dataset"]) == (2, "videoset_jnd")
    assert document["num_sources"] == 9
    assert list(document["predictors"]) == [
        "mj-lat", "constant", "si-ti-ridge", "si-ti-trees", "one-encode",
    ]  # fmt: skip
    for one in document["predictors"].values():
        assert np.shape(one["abs_error"]) == np.shape(one["abs_psnr_error_db"]) == (3,)
        assert np.shape(one["abs_error_interval"]) == (3, 2)
    assert (tmp_path / "out" / "report" / "index.html").read_text().startswith("<!DOCTYPE html>")
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 * 3
    # The JSON value is the mean of the CSV rows.
    errors = [abs(float(r["constant"]) - float(r["true"])) for r in rows if r["jnd_index"] == "1"]
    assert np.mean(errors) == pytest.approx(results.predictors["constant"].score.abs_error[0])
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == [
        "index.html", "predictions.csv", "report", "results.json",
    ]  # fmt: skip


def documented_keys(heading):
    """Return the keys that a table of the page on file formats names, below a line."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "file-formats.md").read_text()
    table = page.partition(heading)[2].partition("\n\n| Key |")[2].partition("\n\n")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return [key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)]


def test_the_results_have_the_documented_keys_and_three_values_per_level(tmp_path):
    evaluate_on(MemoryDataset(tmp_path), [make_run(num_parameters=7)], tmp_path / "out")
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert sorted(document) == sorted(documented_keys("## results.json"))
    assert np.shape(document["label_noise"]) == (3,)
    per_level = {
        "abs_error", "bias", "rmse", "pearson", "spearman", "abs_psnr_error_db", "extra_bits",
        "missing_bits", "sur_at_level",
    }  # fmt: skip
    keys = documented_keys("Each of `predictors` has")
    for one in document["predictors"].values():
        assert sorted(one) == sorted(keys)
        assert {name: np.shape(one[name]) for name in per_level} == dict.fromkeys(per_level, (3,))
        assert {name: np.shape(values) for name, values in one["within"].items()} == {
            "1": (3,), "2": (3,), "3": (3,),
        }  # fmt: skip
        assert {name: np.shape(values) for name, values in one["overshoot"].items()} == {
            "0": (3,), "2": (3,), "4": (3,),
        }  # fmt: skip
        assert np.shape(one["bias_interval"]) == np.shape(one["abs_error_interval"]) == (3, 2)
    assert document["provenance"]["models"] == {
        MODEL: {"num_parameters": 7, "seconds_per_frame": 0.0},
    }


def test_results_in_a_bucket_equal_those_on_a_disk(tmp_path, s3):
    dataset = MemoryDataset(tmp_path)
    evaluate_on(dataset, [make_run()], tmp_path / "out")
    evaluate_on(dataset, [make_run()], s3.url("runs/first"))
    names = ("report/index.html", "predictions.csv", "results.json")
    assert s3.files("runs/first") == {
        name: (tmp_path / "out" / name).read_bytes() for name in names
    }


def test_missing_levels_are_empty_cells_and_ignored(tmp_path):
    # Source 1 has no third level; no source has a second.
    gaps = [(1, 2), *((row, 1) for row in range(9))]
    dataset = MemoryDataset(tmp_path, gaps=gaps, scale=QF)
    results = evaluate_on(dataset, [make_run(scale="QF")], tmp_path / "out")
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["scale"] == "QF"
    assert document["predictors"][MODEL]["abs_error"] == [0, None, 0]
    assert document["predictors"][MODEL]["abs_error_interval"] == [[0, 0], [None, None], [0, 0]]
    assert document["bits_saved"]["finest"] == 100
    assert document["bits_saved"]["model"] == document["bits_saved"]["viewers"]
    assert document["bits_saved"]["model"][1] is None
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 * 3
    errors = {"1": [], "2": [], "3": []}
    for row in rows:
        missing = row["jnd_index"] == "2" or (row["source_id"], row["jnd_index"]) == (
            "videoSRC102", "3",
        )  # fmt: skip
        for column in ("true", "true_psnr_db", "constant_abs_psnr_error_db"):
            assert (row[column] == "") == missing
        assert row["constant"] != ""
        if not missing:
            errors[row["jnd_index"]].append(abs(float(row["constant"]) - float(row["true"])))
    found = results.predictors["constant"].score
    assert [len(one) for one in errors.values()] == [9, 0, 8]
    assert found.abs_error[::2] == pytest.approx((np.mean(errors["1"]), np.mean(errors["3"])))
    assert found.mean_abs_error == pytest.approx(np.mean([*errors["1"], *errors["3"]]))
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert not re.search(r"\bnan\b", re.sub(r"data:image/[^\"]*", "", page), re.IGNORECASE)


def test_a_level_without_training_sources_is_a_user_error(tmp_path):
    dataset = MemoryDataset(tmp_path, train_gaps=[(row, 2) for row in range(30)])
    with pytest.raises(UserError, match="No training source of .* has JND3"):
        evaluate_on(dataset, [make_run()], tmp_path / "out")


def read_rows(folder):
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def page_text(folder):
    return re.sub(r"data:image/[^\"]*", "", (folder / "report" / "index.html").read_text())


def single_run(variant, levels, **changes):
    columns = [level - 1 for level in levels]
    return make_run(
        name=variant,
        levels=levels,
        predict=lambda raw: raw[:, 0, 0, columns].astype(np.float32) + 2,
        backbones=dict.fromkeys(levels, lambda raw: raw),
        **changes,
    )


@pytest.mark.parametrize(
    ("variant", "levels"), [("lat", (2,)), ("e2e-rec", (1, 3)), ("rec", (1, 2, 3))]
)
def test_all_predictors_are_compared_only_on_the_levels_of_the_run(tmp_path, variant, levels):
    # Training sources need not have the levels that are not predicted.
    gaps = [(row, level) for row in range(30) for level in range(3) if level + 1 not in levels]
    dataset = MemoryDataset(tmp_path, train_gaps=gaps)
    results = evaluate_on(dataset, [single_run(variant, levels)], tmp_path / "out")
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["levels"] == list(levels)
    present = np.isin([1, 2, 3], levels)
    for name, one in document["predictors"].items():
        assert [error is not None for error in one["abs_error"]] == present.tolist()
        found = [error for error in one["abs_error"] if error is not None]
        assert one["mean_abs_error"] == pytest.approx(np.mean(found)), name
    own, constant = document["predictors"][variant], document["predictors"]["constant"]
    assert own["mean_abs_error"] == pytest.approx(2)
    assert own["ratio_to_constant"] == pytest.approx(2 / constant["mean_abs_error"])
    for share in (document["bits_saved"]["model"], document["bits_saved"]["viewers"]):
        assert [one is not None for one in share] == present.tolist()
    rows = read_rows(tmp_path / "out")
    assert len(rows) == 9 * 3
    for row in rows:
        assert row["true"] != ""
        for column in (variant, "constant", "si-ti-trees", "constant_abs_psnr_error_db"):
            assert (row[column] != "") == (int(row["jnd_index"]) in levels)
    page = page_text(tmp_path / "out")
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    assert results.sur is None
    assert document["sur"] is None
    assert "atisfied-user ratio" not in page
    assert "spread" not in ",".join(rows[0])


def test_the_intervals_of_the_model_are_next_to_those_of_the_constant(tmp_path):
    run = make_run(levels=(1, 3), predict=lambda raw: raw[:, 0, 0, [0, 2]] + 2.0)
    evaluate_on(MemoryDataset(tmp_path), [replace(run, half_widths=(2.5, 1.5))], tmp_path / "out")
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    own, constant = (
        document["predictors"][name]["prediction_interval"] for name in (MODEL, "constant")
    )
    # All errors are 2.
    assert own == {"nominal": 0.9, "half_width": [2.5, None, 1.5], "coverage": [1, None, 0]}
    assert constant["half_width"][0] > 2.5
    assert document["predictors"]["one-encode"]["prediction_interval"] is None


def test_a_model_file_is_calibrated_with_the_errors_of_the_test_split(tmp_path):
    path = tmp_path / "m.keras"
    frames = keras.Input((16, 32, 3))
    spec = {"variant": "mj-lat", "levels": (1, 2, 3), "scale": "QP", "simulated": True}
    means = keras.layers.GlobalAveragePooling2D()(frames)
    keras.Model(frames, PredictorSpecLayer(spec)(means)).save(path)
    run = make_run(predict=lambda raw: raw[:, 0, 0] + np.array([2.0, -1.0, 0.5]))
    results = evaluate_on(MemoryDataset(tmp_path), [run], tmp_path / "out")
    few = replace(results.test, levels=np.where(np.arange(9)[:, None] == 0, np.nan, 30.0))
    with pytest.raises(UserError, match="too few clips"):
        calibrate(path, replace(results, test=few))
    assert load_predictor(path).spec.residuals is None
    calibrate(path, results)
    residuals = load_predictor(path).spec.residuals
    assert residuals.errors == ((2.0, -1.0, 0.5),) * 9
    np.testing.assert_array_equal(residuals.half_widths(), [2, 1, 0.5])


@pytest.mark.parametrize("backbones", [{}, {3: lambda raw: raw}])
def test_the_report_shows_the_backbones_that_were_kept(tmp_path, backbones):
    evaluate_on(MemoryDataset(tmp_path), [make_run(backbones=backbones)], tmp_path / "out")
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    # Three clips: raw, encoded at three levels, and from the backbones. And a thumbnail per clip.
    assert page.count('<img src="') == 3 * (1 + 3 + len(backbones)) + page.count('alt="Frame of ')
    assert ("Backbone frames are" in page) == bool(backbones)
    assert page.count("not stored in the run") == 3 * 2 * len(backbones)


def test_a_report_is_written_even_if_no_test_source_has_the_level(tmp_path):
    dataset = MemoryDataset(tmp_path, gaps=[(row, 1) for row in range(9)])
    evaluate_on(dataset, [single_run("lat", (2,))], tmp_path / "out")
    assert not re.search(r"\bnan\b", page_text(tmp_path / "out"), re.IGNORECASE)


def spread_run(spread, levels=(1, 2, 3)):
    columns = [level - 1 for level in levels]

    def predict(raw):
        found = raw[:, 0, 0, columns].astype(np.float32)
        return np.stack([found, np.full_like(found, spread)], axis=-1)

    return make_run(levels=levels, spread=True, predict=predict)


def test_spreads_are_compared_with_the_viewers_samples(tmp_path):
    dataset = MemoryDataset(tmp_path, viewers=True, gaps=[(1, 2)])
    results = evaluate_on(dataset, [spread_run(VIEWERS_SPREAD)], tmp_path / "out")
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(document["sur"]) == [MODEL, "constant"]
    own, constant = document["sur"][MODEL], document["sur"]["constant"]
    # Level and spread are exact; the rest is the sampling error of 30 viewers.
    assert max(own["wasserstein"]) < 51 * 0.005
    assert min(constant["wasserstein"]) > 3 * max(own["wasserstein"])
    assert np.shape(own["wasserstein_interval"]) == (3, 2)
    assert results.predictors[MODEL].score.mean_abs_error == 0
    rows = read_rows(tmp_path / "out")
    for row in rows:
        assert float(row[f"{MODEL}_spread"]) == VIEWERS_SPREAD
        missing = (row["source_id"], row["jnd_index"]) == ("videoSRC102", "3")
        assert (row[f"{MODEL}_sur_distance"] == "") == missing
    differences = [float(row["constant_sur_distance"]) for row in rows[::3]]
    assert np.mean(differences) == pytest.approx(constant["wasserstein"][0], abs=1e-4)
    page = page_text(tmp_path / "out")
    assert "satisfied-user ratio" in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_spreads_of_a_single_level_leave_the_others_empty(tmp_path):
    dataset = MemoryDataset(tmp_path, viewers=True)
    evaluate_on(dataset, [spread_run(VIEWERS_SPREAD, (2,))], tmp_path / "out")
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    for one in document["sur"].values():
        assert [value is None for value in one["wasserstein"]] == [True, False, True]
        assert one["mean_wasserstein"] == pytest.approx(one["wasserstein"][1])
    spreads = [row[f"{MODEL}_spread"] for row in read_rows(tmp_path / "out")[:3]]
    assert spreads == ["", "2.5000", ""]


def test_sur_curves_are_not_evaluated_without_samples(tmp_path):
    evaluate_on(MemoryDataset(tmp_path), [spread_run(2.0)], tmp_path / "out")
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["sur"][MODEL]["wasserstein"] == [None] * 3
    assert "atisfied-user ratio" not in page_text(tmp_path / "out")


def test_frames_are_scaled_to_the_input_size_of_the_model(tmp_path):
    seen = []

    def predict(raw):
        seen.append(raw.shape[1:])
        return np.zeros((len(raw), 3), np.float32)

    run = make_run(width=16, height=8, predict=predict)
    evaluate_on(MemoryDataset(tmp_path), [run], tmp_path / "out")
    assert set(seen) == {(8, 16, 3)}


def test_models_of_one_variant_are_compared_by_pairs(tmp_path):
    # Errors of 0 and of 2 QP on every clip: each difference is 2, without any variation.
    worse = make_run(
        path="runs/second", predict=lambda raw: raw[:, 0, 0] + 2.0, half_widths=(1, 2, 3)
    )
    runs = named([make_run(), worse, single_run("lat", (1, 3))])
    results = evaluate_on(MemoryDataset(tmp_path), runs, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(document["predictors"])[:4] == ["mj-lat#1", "mj-lat#2", "lat", "constant"]
    assert document["levels"] == [1, 3]  # those that all models predict
    second = document["predictors"]["mj-lat#2"]
    assert second["abs_error"] == [2, None, 2]
    assert second["differences"]["mj-lat#1"] == {"mean": 2, "interval": [2, 2]}
    assert second["prediction_interval"]["half_width"] == [1, None, 3]
    assert document["predictors"]["mj-lat#1"]["differences"]["lat"]["mean"] == -2
    assert results.model == "mj-lat#1"
    assert {"mj-lat#1", "mj-lat#2", "lat"} <= set(read_rows(tmp_path / "out")[0])


def test_models_without_a_common_level_are_a_user_error(tmp_path):
    runs = [single_run("lat", (2,)), single_run("rec", (1, 3))]
    with pytest.raises(UserError, match="have no JND level in common"):
        evaluate_on(MemoryDataset(tmp_path), runs, tmp_path / "out")


def test_a_model_of_another_scale_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"predicts levels in QP, but .* has levels in QF\."):
        evaluate_on(MemoryDataset(tmp_path, scale=QF), [make_run()], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_dataset_or_an_unknown_one_is_stated(tmp_path):
    dataset = MemoryDataset(tmp_path, fingerprint="another", config="1080p")
    other = evaluate_on(dataset, [make_run()], tmp_path / "out")
    assert other.predictors[MODEL].score.mean_abs_error == 0
    (note,) = notes_on(dataset, make_run())
    assert note.startswith("mj-lat was trained on videoset_jnd/synthetic 1.0.0 (fingerprint")
    assert "32x16" in note
    (note,) = notes_on(dataset, make_run(fingerprint="", dataset=""))
    assert "may have been trained on test sources of videoset_jnd/1080p" in note
    assert notes_on(dataset, make_run(fingerprint="another")) == []


def test_a_run_trained_on_a_test_source_is_a_user_error(tmp_path):
    run = make_run(trained_on=frozenset({"videoSRC103", "videoSRC001"}))
    with pytest.raises(
        UserError, match="trained on 1 of the test sources, for example videoSRC103"
    ):
        evaluate_on(MemoryDataset(tmp_path), [run], tmp_path / "out")


def test_equal_ids_of_simulated_and_real_sources_do_not_clash(tmp_path):
    """Each synthetic VideoSet names its sources as VideoSet does."""
    run = make_run(trained_on=frozenset({"videoSRC103"}), fingerprint="another")
    dataset = MemoryDataset(tmp_path, simulated=False, simulation="")
    evaluate_on(dataset, [run], tmp_path / "out")
    assert "mj-lat was trained on simulated viewers, not on people." in notes_on(dataset, run)


def test_a_source_in_two_splits_is_a_user_error(tmp_path):
    splits = {"train": ("videoSRC101",), "test": ("videoSRC101",)}
    with pytest.raises(UserError, match="for example videoSRC101"):
        evaluate_on(MemoryDataset(tmp_path, splits=splits), [make_run()], tmp_path / "out")


def test_a_model_that_predicts_nan_is_not_scored(tmp_path):
    run = make_run(predict=lambda raw: np.full((len(raw), 3), np.nan))
    with pytest.raises(ValueError, match="27 are not finite"):
        evaluate_on(MemoryDataset(tmp_path), [run], tmp_path / "out")


def test_a_model_of_nan_weights_is_a_user_error(tmp_path):
    frames = keras.Input((36, 64, 3))
    level = {"variant": "mj-lat", "levels": (1, 2, 3), "scale": "QP", "simulated": True}
    nan = keras.layers.Rescaling(np.nan)(keras.layers.GlobalAveragePooling2D()(frames))
    predictor = from_model(keras.Model(frames, PredictorSpecLayer(level)(nan)), origin="a.keras")
    run = make_run(predict=partial(predict_frames, predictor), width=64, height=36)
    with pytest.raises(UserError, match=r"a\.keras predicts numbers that are not finite\."):
        evaluate_on(MemoryDataset(tmp_path), [run], tmp_path / "out")


def test_predictions_of_folds_are_joined_for_each_predictor():
    def part(first, last, spreads=True):
        levels = np.arange(3.0 * first, 3 * last).reshape(-1, 3)
        return Predictions(
            levels={MODEL: levels, "constant": levels + 100},
            spreads=levels / 10 if spreads else None,
            sur={MODEL: np.repeat(levels[..., None], 51, axis=-1)},
            half_widths={"constant": levels * 2},
        )

    joined, whole = Predictions.joined([part(0, 2), part(2, 7)]), part(0, 7)
    for name in ("levels", "sur", "half_widths"):
        found, expected = getattr(joined, name), getattr(whole, name)
        assert list(found) == list(expected)
        for predictor, values in expected.items():
            np.testing.assert_array_equal(found[predictor], values)
    np.testing.assert_array_equal(joined.spreads, whole.spreads)
    assert Predictions.joined([part(0, 2, False), part(2, 7, False)]).spreads is None


def test_a_missing_ratio_is_null_in_json():
    results = make_results(4)
    network = results.network
    changed = replace(network, score=replace(network.score, ratio_to_constant=float("nan")))
    text = to_json(replace(results, predictors={**results.predictors, MODEL: changed}))
    assert json.loads(text)["predictors"][MODEL]["ratio_to_constant"] is None


def test_importing_the_evaluation_imports_no_framework():
    code = (
        "import sys, laser_dist.evaluation.evaluate;"
        "print([m for m in ('tensorflow', 'keras', 'ray', 'apache_beam') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
