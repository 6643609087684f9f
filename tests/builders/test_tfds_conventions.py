"""TFDS's options and its command line."""

import subprocess
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from photographs import photographs
from videoset_builds import SETTINGS, TINY, examples

from beam_pipelines.runner import local_options
from beam_pipelines.synthetic.pipeline import synthesize
from laser_dist.errors import UserError
from tfds_builders.videoset_jnd.videoset_jnd_dataset_builder import Builder

pytestmark = [pytest.mark.beam, pytest.mark.slow]


def build(manual_dir, data_dir, **options):
    builder = Builder(data_dir=data_dir, config=TINY)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=manual_dir, beam_options=local_options(1), **options
        )
    )
    return builder


@pytest.mark.parametrize("limit", [1, 3])
def test_a_split_ends_after_the_examples_that_were_asked_for(synthetic, tmp_path, limit):
    builder = build(synthetic, tmp_path, max_examples_per_split=limit)
    info = tfds.builder_from_directory(builder.data_path).info
    assert {name: split.num_examples for name, split in info.splits.items()} == dict.fromkeys(
        ("train", "validation", "test"), limit
    )
    # Each split has two sources of two examples; sources that are not needed are not measured.
    for split, sources in info.metadata["splits"].items():
        assert len(sources) == min(limit, 2)
        assert {e["source_id"].decode() for e in examples(builder.data_path, split)} == {*sources}
        labels = pq.read_table(builder.data_path / "labels" / f"{split}.parquet")
        assert len(labels) == limit
    measured = {path.stem for path in (builder.data_path / "quality").iterdir()}
    assert measured == {*sum(info.metadata["splits"].values(), [])} == {*info.metadata["part"]}


@pytest.mark.parametrize(
    "options",
    [
        {"num_shards": 3},
        {"max_shard_size": 1 << 20},
        {"nondeterministic_order": True},
        {"ignore_duplicates": True},
        {"beam_runner": "DirectRunner"},
        {"compute_stats": tfds.download.ComputeStatsMode.FORCE},
    ],
)
def test_options_without_an_effect_are_refused(synthetic, tmp_path, options):
    with pytest.raises(UserError, match=f"do not have the DownloadConfig options {[*options][0]}"):
        build(synthetic, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_no_examples_at_all_are_refused(synthetic, tmp_path):
    with pytest.raises(UserError, match="max_examples_per_split must be at least 1"):
        build(synthetic, tmp_path, max_examples_per_split=0)


def test_the_command_of_tfds_builds_the_dataset(tmp_path):
    settings = replace(SETTINGS, width=256, height=144)
    synthesize(photographs(tmp_path), settings, tmp_path / "mini", local_options(1))
    command = [sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", "build"]
    command += ["videoset_jnd/synthetic", "--imports", "tfds_builders"]
    command += ["--manual_dir", tmp_path / "mini", "--data_dir", tmp_path / "data"]
    command += ["--max_examples_per_split", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "data" / "videoset_jnd" / "synthetic").glob("[0-9]*")
    assert len(examples(folder)) == 6
