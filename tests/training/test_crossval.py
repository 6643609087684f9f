"""Cross-validation from the command line: folds in one Ray session, killed and resumed."""

import csv
import json
import os
import shutil
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from command_line import Started, laser_jnd
from training_fakes import IMAGES, frame, levels_of

from laser_dist.prediction.load import load_predictor

NUM_SOURCES = 12  # six groups of two; fewer than nine clips would have no calibrated interval
SPLITS = {"train": range(8), "validation": range(8, 10), "test": range(10, 12)}
SETTINGS = (
    "backbone.filters=4", "backbone.latent_filters=4", "backbone.height=32", "backbone.width=48",
    "head.filters=4", "image.epochs=1", "jnd.epochs=1", "heads.epochs=2", "image.crop=32",
    "jnd.crop=32", "heads.batch_size=2", "deterministic=true", "levels=1",
    # One worker of one device, in turn: building the graphs takes nearly all of the time.
    "cluster.cpu_devices=1", "cluster.cpus_per_worker=2",
)  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


class GroupedPairs(tfds.core.GeneratorBasedBuilder):
    """A dataset as `laser-jnd build` makes it, with two sources in each group."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="tiny")]

    def _info(self):
        features = {name: tfds.features.Image(shape=(32, 48, 3)) for name in IMAGES}
        features |= {"source_id": tfds.features.Text(), "group_id": tfds.features.Text()}
        features |= {"frame_index": np.int64, "spatial_information": np.float32}
        features |= {"temporal_information": np.float32}
        features["jnd_levels"] = tfds.features.Tensor(shape=(3,), dtype=np.float32)
        splits = {name: [f"source{number}" for number in each] for name, each in SPLITS.items()}
        about = {"simulated": True, "scale": "QP", "fingerprint": "abc", "splits": splits}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(about),
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(numbers) for name, numbers in SPLITS.items()}

    def _generate_examples(self, numbers):
        for number in numbers:
            images = {name: frame(9 * number, level) for level, name in enumerate(IMAGES)}
            yield (
                number,
                images
                | {
                    "source_id": f"source{number}",
                    "group_id": f"group{number // 2}",
                    "frame_index": 0,
                    "spatial_information": 10.0 + number,
                    "temporal_information": 1.0 + number % 3,
                    "jnd_levels": levels_of(number),
                },
            )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    from label_tables import write_label_tables

    builder = GroupedPairs(data_dir=tmp_path_factory.mktemp("grouped"))
    builder.download_and_prepare()
    write_label_tables(builder.data_path)
    rows = [
        {"source_id": f"source{number}", "qp": qp, "psnr_rgb_db": 60.0 - qp / 2,
         "psnr_y_min_db": 60.0 - qp / 2, "num_bits": int(1e6 / (qp + number)),
         "bitrate_kbps": 1e3 / (qp + number)}
        for number in range(NUM_SOURCES)
        for qp in range(1, 52)
    ]  # fmt: skip
    (builder.data_path / "quality").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), builder.data_path / "quality" / "part.parquet")
    return builder.data_path


def crossval(dataset, output):
    """Return the words of the command."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return (
        "crossval", "lat", "--preset", "tiny", "--dataset", dataset, "--folds", 2,
        "--output", output, "--seed", 1, *settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """Folder of a cross-validation that nothing has disturbed."""
    output = tmp_path_factory.mktemp("undisturbed") / "folds"
    done = laser_jnd(*crossval(dataset, output), timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 held-out clips in 6 groups" in done.stdout
    return output


def config_of(run):
    return json.loads((run / "config.json").read_text())


def test_each_source_is_predicted_by_the_run_that_has_not_seen_its_group(finished):
    runs = [config_of(finished / f"fold-{number}")["dataset"]["splits"] for number in (1, 2)]
    tested = [source for splits in runs for source in splits["test"]]
    assert sorted(tested) == sorted(f"source{number}" for number in range(NUM_SOURCES))
    for splits in runs:
        groups = {name: {int(each[6:]) // 2 for each in ids} for name, ids in splits.items()}
        assert len(set.union(*groups.values())) == sum(map(len, groups.values())) == 6
    with (finished / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # The constant baseline of a fold is the median of its own training sources.
    for splits in runs:
        numbers = [int(each[6:]) for each in splits["train"]]
        found = {float(row["constant"]) for row in rows if row["source_id"] in splits["test"]
                 and row["jnd_index"] == "1"}  # fmt: skip
        assert found == {np.median(numbers) + 20}


def test_the_results_are_pooled_and_the_models_calibrated(finished):
    document = json.loads((finished / "results.json").read_text())
    assert (document["num_sources"], document["num_groups"]) == (12, 6)
    assert document["sources_per_split"] == {"test": 12}
    assert document["provenance"]["notes"][0].startswith("Cross-validated in 2 folds of groups")
    assert (finished / "report" / "index.html").exists()
    with (finished / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    own = [row for row in rows if row["jnd_index"] == "1"]
    errors = np.array([float(row["lat"]) - float(row["true"]) for row in own])
    score = document["predictors"]["lat"]
    assert len(errors) == 12
    assert score["bias"][0] == pytest.approx(errors.mean(), abs=1e-3)
    first, second = (load_predictor(finished / f"fold-{n}").spec.residuals for n in (1, 2))
    assert first == second
    np.testing.assert_allclose(np.sort(np.ravel(first.errors)), np.sort(errors), atol=0.006)
    assert len(set(first.groups)) == 6


def test_a_killed_fold_resumes_and_gives_the_same_figures(finished, dataset, tmp_path):
    output = tmp_path / "folds"
    command = Started(*crossval(dataset, output), cwd=tmp_path)
    record = output / "fold-1" / "models" / "image.json"
    command.wait_for(record.exists, seconds=600)  # then the next stage is being trained
    for process in command.processes():
        os.kill(process, signal.SIGKILL)
    command.process.communicate(timeout=60)
    assert not (output / "results.json").exists()
    done = laser_jnd(*crossval(dataset, output), timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "image: reused from this run" in done.stderr
    assert (output / "predictions.csv").read_bytes() == (finished / "predictions.csv").read_bytes()
    results, expected = (
        json.loads((folder / "results.json").read_text()) for folder in (output, finished)
    )
    for name in ("predictors", "label_noise", "bits_saved"):
        assert results[name] == expected[name]


def test_a_fold_alone_can_be_resumed_with_its_own_splits(finished):
    done = laser_jnd("train", "--resume", finished / "fold-1")
    assert done.returncode == 0, done.stderr
    assert "is finished, with the same settings and data" in done.stderr


def test_too_many_folds_are_refused(dataset, tmp_path):
    words = [*crossval(dataset, tmp_path / "folds")]
    words[words.index("--folds") + 1] = 7
    done = laser_jnd(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has too few groups for 7 folds: 6." in done.stderr
    assert not (tmp_path / "folds").exists()


def test_folds_of_a_dataset_split_by_source_may_share_a_group(dataset, tmp_path):
    by_source = shutil.copytree(dataset, tmp_path / "by_source")
    metadata = json.loads((by_source / "metadata.json").read_text())
    (by_source / "metadata.json").write_text(json.dumps({**metadata, "split_by": "source"}))
    words = [*crossval(by_source, tmp_path / "folds")]
    words[words.index("--folds") + 1] = NUM_SOURCES + 1
    done = laser_jnd(*words)
    assert done.returncode == 2
    assert f"has too few sources for {NUM_SOURCES + 1} folds: {NUM_SOURCES}." in done.stderr
