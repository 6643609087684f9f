"""The builder on a tiny synthetic dataset: six clips of three photographs."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from ffmpeg_scores import clip_score
from skimage.metrics import peak_signal_noise_ratio
from video_clips import picture_bits
from videoset_builds import FPS, SETTINGS, TINY, build, examples, inventory_of, reference_and

from beam_pipelines.dataset.measured_files import made_by
from beam_pipelines.dataset.pipeline import WrittenBuild
from beam_pipelines.rejects import Reject
from laser_dist.errors import UserError
from laser_dist.jnd.videoset_labels import read_videoset_labels
from laser_dist.video.activity import spatial_information, temporal_information
from laser_dist.video.codec import decode, x264_version
from tfds_builders.jnd_config import derived_config
from tfds_builders.jnd_dataset import content_fingerprint
from tfds_builders.videoset_jnd.videoset_jnd_dataset_builder import Builder

pytestmark = [
    pytest.mark.beam,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
    # TFDS calls protobuf in a way that newer versions deprecate.
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),
]


def test_each_source_gives_its_frames_once(dataset):
    keys = sorted((e["source_id"].decode(), int(e["frame_index"])) for e in examples(dataset))
    # 3 frames at 30000/1001 are 0.1 s: at 20 frames per second 2, the centers of two halves.
    assert keys == [(f"videoSRC00{i}", frame) for i in range(1, 7) for frame in (0, 2)]


def test_no_group_is_in_two_splits(dataset):
    groups = {
        split: {e["group_id"] for e in examples(dataset, split)}
        for split in ("train", "validation", "test")
    }
    assert all(groups.values())
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 3


def test_frames_are_those_of_the_clips_at_the_levels(dataset, synthetic):
    num_encoded = 0
    for example in examples(dataset):
        source_id, index = example["source_id"].decode(), int(example["frame_index"])
        for level in range(3):
            qp = int(example["jnd_levels"][level])
            reference, stream, is_there = reference_and(synthetic, source_id, qp)
            raw = reference.rgb(index, width=32, height=32)
            coded = decode(stream, fps=FPS).rgb(index, width=32, height=32)
            np.testing.assert_array_equal(example["raw"], raw)
            np.testing.assert_array_equal(example[f"jnd{level + 1}"], coded)
            psnr_db = peak_signal_noise_ratio(raw, coded)  # scikit-image's
            assert example["psnr_db"][level] == pytest.approx(psnr_db)
            assert example["level_origins"][level] == (b"file" if is_there else b"encoded")
            num_encoded += not is_there
        assert example["timestamp_s"] == np.float32(index / FPS)
        assert example["spatial_information"] == np.float32(spatial_information(reference))
        assert example["temporal_information"] == np.float32(temporal_information(reference))
    assert num_encoded  # some levels are not among the four QPs


def test_labels_are_those_of_the_tables(dataset, synthetic):
    table = {s.source_id: s for s in read_videoset_labels(synthetic, "64x48").sources}
    for example in examples(dataset):
        levels = table[example["source_id"].decode()].levels
        np.testing.assert_array_equal(example["jnd_levels"], [level.jnd for level in levels])
        np.testing.assert_allclose(example["jnd_level_means"], [x.mean for x in levels], rtol=1e-6)
        samples = [tuple(row) for row in example["viewer_samples"]]
        assert samples == [level.samples for level in levels]


def test_quality_rows_have_the_values_of_ffmpeg_and_scikit_image(dataset, synthetic):
    rows = pq.read_table(dataset / "quality").to_pylist()
    levels = {e["source_id"].decode(): e["jnd_levels"].astype(int) for e in examples(dataset)}
    expected = {
        (key, qp) for key, qps in levels.items() for qp in {0, *SETTINGS.qps, *qps.tolist()}
    }
    assert {(row["source_id"], row["qp"]) for row in rows} == expected
    for row in rows:
        reference, stream, is_there = reference_and(synthetic, row["source_id"], row["qp"])
        lossless = reference_and(synthetic, row["source_id"], 0)[1]
        # An identical clip has 100 dB, not infinity.
        for name, psnr_db in (("psnr_y_db", "psnr"), ("xpsnr_db", "xpsnr")):
            expected = min(100, clip_score(psnr_db, lossless, stream))
            assert row[name] == pytest.approx(expected, abs=1e-4)
        assert row["ssim"] == pytest.approx(clip_score("ssim", lossless, stream), abs=1e-6)
        if row["qp"]:
            clips = (reference, decode(stream, fps=FPS))
            frames = [clip.rgb_frames(width=32, height=32) for clip in clips]
            assert row["psnr_rgb_db"] == pytest.approx(peak_signal_noise_ratio(*frames))
        assert row["origin"] == ("file" if is_there else "encoded")
        assert row["num_bits"] == picture_bits(stream)
        # 3 frames last 3 * 1001 / 30000 s.
        assert row["bitrate_kbps"] == pytest.approx(row["num_bits"] / 1000 / (3 * 1001 / 30000))
        assert row["encoder"] == "x264"
        assert row["encoder_version"] == x264_version(stream)


def test_one_source_of_the_quality_table_can_be_read_alone(dataset):
    rows = pq.read_table(dataset / "quality" / "videoSRC003.parquet").to_pylist()
    assert {row["source_id"] for row in rows} == {"videoSRC003"}
    assert [row["qp"] for row in rows] == sorted({row["qp"] for row in rows})


def test_metadata_describe_simulation_and_splits(dataset, synthetic):
    info = tfds.builder_from_directory(dataset).info
    marker = json.loads((synthetic / "SIMULATED.json").read_text())
    assert info.metadata["simulated"] is True
    assert info.metadata["simulation"] == marker["simulated_viewers"]
    assert info.metadata["seed"] == SETTINGS.seed
    assert (info.metadata["scale"], info.metadata["higher_is_worse"]) == ("QP", True)
    assert info.metadata["split_by"] == "footage"
    for split, source_ids in info.metadata["splits"].items():
        assert source_ids == sorted({e["source_id"].decode() for e in examples(dataset, split)})
    assert "simulated viewers" in info.description
    assert "1701.01500" in info.citation
    assert info.homepage == "https://ieee-dataport.org/documents/videoset"
    assert "IEEE DataPort" in info.redistribution_info.license


def test_without_a_marker_the_viewers_are_people(synthetic, tmp_path):
    shutil.copytree(synthetic, tmp_path / "real")
    (tmp_path / "real" / "SIMULATED.json").unlink()
    # By number, all six are from the first film.
    with pytest.raises(UserError, match="(?s)at least three groups.*from 221"):
        build(tmp_path / "real", tmp_path / "data")
    config = replace(TINY, split_by="source")
    folder = build(tmp_path / "real", tmp_path / "data", config=config)
    metadata = tfds.builder_from_directory(folder).info.metadata
    assert (metadata["simulated"], metadata["simulation"]) == (False, "")
    assert metadata["split_by"] == "source"
    assert {e["group_id"] for e in examples(folder)} == {b"El Fuente"}
    assert all(metadata["splits"].values())


def test_a_marker_below_the_manual_folder_is_found(synthetic, tmp_path):
    shutil.copytree(synthetic, tmp_path / "parent" / "mini")
    folder = build(tmp_path / "parent", tmp_path / "data")
    assert tfds.builder_from_directory(folder).info.metadata["simulated"] is True


def test_another_grouping_is_another_dataset(synthetic, tmp_path):
    shutil.copytree(synthetic, tmp_path / "mini")
    before = inventory_of(tmp_path / "mini").fingerprint
    path = tmp_path / "mini" / "SIMULATED.json"
    marker = json.loads(path.read_text())
    path.write_text(json.dumps({**marker, "groups": dict.fromkeys(marker["groups"], "one")}))
    assert inventory_of(tmp_path / "mini").fingerprint != before


def test_the_fingerprint_covers_settings(synthetic, tmp_path):
    inventory = inventory_of(synthetic)
    changes = ({}, {"model_width": 64}, {"frames_per_second": None})
    builders = [Builder(data_dir=tmp_path, config=replace(TINY, **change)) for change in changes]
    assert len({builder.input_fingerprint(inventory) for builder in builders}) == 3
    assert inventory_of(synthetic, "mean").fingerprint != inventory.fingerprint


def test_the_fingerprint_covers_rejects_and_libraries():
    def fingerprint(input_fingerprint="a", made_by="b", rejects=()):
        about = {"input_fingerprint": input_fingerprint}
        build = WrittenBuild(about=about, made_by=made_by, shards={})
        return content_fingerprint(build, rejects)

    lost, moved = (
        Reject(what="clip", where=f"{folder}/x.264", stage="measure", why="cut", source_id="x")
        for folder in ("/in", "gs://bucket")
    )
    copy = Reject(what="copy", where="/in/y.264", stage="find", why="a duplicate")
    changes = ({}, {"input_fingerprint": "c"}, {"made_by": "c"}, {"rejects": [lost]})
    assert len({fingerprint(**change) for change in changes}) == 4
    assert fingerprint(rejects=[lost]) == fingerprint(rejects=[moved, copy])


def test_what_made_a_dataset_names_all_libraries():
    pictures, arrays = version("pillow"), version("numpy")
    assert {repr(pictures), repr(arrays), repr(version("av"))} <= set(
        re.split(r"[(), ]", made_by())
    )
    for name, numbers in av.library_versions.items():
        assert repr((name, numbers)) in made_by()


def test_all_frames_with_means_as_levels(synthetic, tmp_path):
    config = derived_config(TINY, {"frames_per_second": None, "level_definition": "mean"})
    assert config.name == "tiny-all-frames-mean"
    folder = build(synthetic, tmp_path, config=config)
    found = examples(folder)
    by_name = tfds.load(f"videoset_jnd/{config.name}", data_dir=tmp_path, split="all")
    assert len(by_name) == len(found)
    assert sorted(e["frame_index"] for e in found) == sorted([0, 1, 2] * 6)
    assert tfds.builder_from_directory(folder).info.metadata["level_definition"].startswith("mean")
    for example in found:
        np.testing.assert_array_equal(example["jnd_levels"], example["jnd_level_means"])
        reference, stream, _ = reference_and(
            synthetic, example["source_id"].decode(), int(example["jnd_levels"][1])
        )
        coded = decode(stream, fps=FPS).rgb(int(example["frame_index"]), width=32, height=32)
        np.testing.assert_array_equal(example["jnd2"], coded)


def test_too_few_groups_are_an_error(synthetic, tmp_path):
    shutil.copytree(synthetic, tmp_path / "mini")
    path = tmp_path / "mini" / "SIMULATED.json"
    marker = json.loads(path.read_text())
    path.write_text(json.dumps({**marker, "groups": dict.fromkeys(marker["groups"], "one")}))
    with pytest.raises(UserError, match="leaves none for test, validation: at least three groups"):
        build(tmp_path / "mini", tmp_path / "data")


@pytest.mark.parametrize("text", ["{", "[]", '{"simulated": true}'])
def test_a_marker_without_a_description_is_an_error(synthetic, tmp_path, text):
    shutil.copytree(synthetic, tmp_path / "mini")
    (tmp_path / "mini" / "SIMULATED.json").write_text(text)
    with pytest.raises(
        UserError, match=r"SIMULATED\.json (cannot be read|does not describe the viewers)"
    ):
        build(tmp_path / "mini", tmp_path / "data")


def test_a_manual_folder_without_clips_is_an_error(synthetic, tmp_path):
    for path in synthetic.glob("*.csv"):
        shutil.copy(path, tmp_path)
    with pytest.raises(UserError, match="no clips .* videoSRC001_64x48_30_qp_22.264"):
        build(tmp_path, tmp_path / "data")


def test_a_folder_that_cannot_be_written_is_an_error(synthetic, tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises((UserError, OSError), match="data"):
        build(synthetic, tmp_path / "data" / "deeper")


def test_frames_are_taken_at_the_centers_of_equal_intervals():
    pairs = replace(TINY.pairs, frames_per_second=1.0)
    assert pairs.frame_indices(150, 30.0) == [15, 45, 75, 105, 135]
    assert pairs.frame_indices(3, 30.0) == [1]  # at least one
    assert replace(TINY.pairs, frames_per_second=99.0).frame_indices(3, 30.0) == [0, 1, 2]


def test_importing_the_package_registers_the_builder_from_any_folder(tmp_path):
    code = (
        "import tfds_builders, tensorflow_datasets as tfds\n"
        f"builder = tfds.builder('videoset_jnd/360p', data_dir={str(tmp_path)!r})\n"
        "print(builder.info.full_name, builder.info.features['raw'].shape)\n"
        "print(sorted(type(builder).builder_configs))\n"
        "assert builder.info.citation and 'VideoSet' in builder.info.description\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "videoset_jnd/360p/2.0.0 (352, 640, 3)",
        "['1080p', '360p', '540p', '720p', 'synthetic']",
    ]
