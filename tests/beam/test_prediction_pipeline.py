"""The prediction pipeline: tables of the clips in order, and what becomes an error in a row."""

import json
import os
import time
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
from onnx_graphs import write_light_inputs
from PIL import Image

from beam_pipelines import prediction
from beam_pipelines.prediction import (
    PredictClips,
    PredictionPlan,
    add_prediction,
    predict_to_tables,
)
from beam_pipelines.runner import local_options, new_pipeline, run_to_end
from laser_dist.errors import UserError
from laser_dist.isolation import Isolated
from laser_dist.jnd.scale import QP
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.prediction.clips import Sampling
from laser_dist.prediction.predictor import Predictor

pytestmark = pytest.mark.slow  # child processes take a second to start

SPEC = PredictorSpec(variant="lat", levels=(1,), scale="QP", simulated=True)


def mean_color(frames):
    return frames.mean(axis=(1, 2, 3), dtype=np.float32)[:, None]


def no_memory(frames):
    raise MemoryError


def predictor(forward=mean_color):
    return Predictor(forward=forward, width=16, height=16, spec=SPEC, scale=QP, runtime="NumPy")


@pytest.fixture
def plan(tmp_path):
    """Return a plan for five copies of a clip whose mean color is 30."""
    write_light_inputs(tmp_path)
    return PredictionPlan(
        clips=(str(tmp_path / "clip.mp4"),) * 5, output=str(tmp_path / "out"), load=predictor,
        sampling=Sampling(num_frames=2, width=16, height=16), sur=0.75, interval=0.9,
        num_processes=2,
    )  # fmt: skip


def changed(plan, **changes):
    return PredictionPlan(**{**vars(plan), **changes})


def predict(plan):
    return predict_to_tables(plan, local_options(plan.num_processes))


def test_tables_have_the_clips_in_order(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "ROWS_PER_TABLE", 3)
    missing = str(tmp_path / "b\udcff.mp4")  # a name that is not UTF-8
    assert predict(changed(plan, clips=(*plan.clips[:4], missing))) == 1
    tables = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in tables] == [
        "levels-00000-of-00002.parquet", "levels-00001-of-00002.parquet",
    ]  # fmt: skip
    rows = [row for path in tables for row in pq.read_table(path).to_pylist()]
    assert [row["clip"] for row in rows] == [*plan.clips[:4], str(tmp_path / "b\\udcff.mp4")]
    assert [row["levels"] and row["levels"]["jnd1"] for row in rows] == pytest.approx(
        [30, 30, 30, 30, None], abs=1
    )
    assert rows[4]["error"] == f"{tmp_path}/b\\udcff.mp4 does not exist."
    assert rows[0]["error"] is rows[0]["levels"]["jnd2"] is None


def never_end(source, sampling, take):
    time.sleep(600)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        # The image has 192 MB as RGB, and half of it as 4:2:0.
        (
            {"isolate": partial(Isolated, memory_bytes=250_000_000)},
            "needs more than 0.25 GB of mem",
        ),
        ({"step_seconds": 0.5}, "needs more than 0.5 s"),
    ],
)
def test_a_clip_above_a_limit_is_a_row(plan, tmp_path, monkeypatch, limits, message):
    Image.new("RGB", (8000, 8000)).save(tmp_path / "large.png", compress_level=1)
    if "step_seconds" in limits:
        monkeypatch.setattr(prediction, "read_clip", never_end)
    clip = str(tmp_path / "large.png")
    handler = PredictClips(changed(plan, num_processes=1), **limits)
    model = handler.load_model()
    ((index, row),) = handler.run_inference([(7, os.fsencode(clip))], model)
    model.readers.close()
    assert (index, row["clip"]) == (7, clip)
    assert row["error"].startswith(f"{clip} {message}")


def test_a_model_without_memory_fails_the_job_and_leaves_no_table(plan, tmp_path):
    with pytest.raises(UserError, match="The model needs more memory than is free"):
        predict(changed(plan, load=partial(predictor, no_memory)))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_model_is_loaded_once(plan, tmp_path):
    listed, log = tmp_path / "list.json", tmp_path / "log"
    listed.write_text(json.dumps(plan.clips * 20))
    pipeline = new_pipeline(local_options(2))
    (tmp_path / "out").mkdir()
    logged = changed(plan, clips=plan.clips * 20, load=partial(logging_predictor, str(log)))
    add_prediction(pipeline, logged, str(listed))
    run_to_end(pipeline)
    assert log.read_text() == "loaded\n"
    assert pq.read_table(tmp_path / "out").num_rows == 100


def logging_predictor(log):
    with open(log, "a") as file:
        file.write("loaded\n")
    return predictor()
