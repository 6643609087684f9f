"""The builder on a tiny miniature: four clips of two photographs, real files throughout."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from beam_pipelines.miniature import make_miniature
from beam_pipelines.miniature_videoset import VideosetSettings
from beam_pipelines.rejects_table import read_rejects
from beam_pipelines.runner import local_options
from beam_pipelines.sources import Footage
from beam_pipelines.videoset_files import take_inventory
from laser_dist.errors import UserError
from laser_dist.jnd.labels import read_videoset_labels
from laser_dist.jnd.layout import FRAME_RATES
from laser_dist.video.activity import spatial_information, temporal_information
from laser_dist.video.codec import decode, encode_h264
from laser_dist.video.quality import measure_quality, psnr_rgb_db
from tfds_builders.videoset_jnd.videoset_jnd_dataset_builder import Builder, VideosetJndConfig

pytestmark = [
    pytest.mark.beam,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
    # TFDS asks protobuf in the older of two ways, the newer protobuf warns of it.
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),
]

SETTINGS = VideosetSettings(num_sources=6, width=64, height=48, num_frames=3, qps=(22, 28, 34, 40))
TINY = VideosetJndConfig(
    name="tiny", resolution="64x48", model_width=32, model_height=32, frames_per_second=20.0
)
FPS = FRAME_RATES[30]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """Six clips of three photographs: two clips a group."""
    root = tmp_path_factory.mktemp("miniature")
    footage = []
    rows, columns = np.mgrid[:130, :160]
    for index in range(3):
        waves = 120 + 60 * np.sin(columns / (8 + index)) * np.cos(rows / 11)
        noise = np.random.default_rng(index).normal(0, 3, (130, 160, 3))
        path = root / f"photo{index}.png"
        Image.fromarray(np.clip(waves[..., None] + noise, 0, 255).astype(np.uint8)).save(path)
        footage.append(Footage(path.stem, path, is_video=False))
    make_miniature(footage, SETTINGS, root / "mini", local_options(1))
    return root / "mini"


def build(manual_dir, data_dir, num_workers=1, config=TINY):
    builder = Builder(data_dir=data_dir, config=config)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=manual_dir,
            beam_options=local_options(num_workers),
            try_download_gcs=False,
        )
    )
    return Path(builder.data_path)


@pytest.fixture(scope="module")
def dataset(miniature, tmp_path_factory):
    return build(miniature, tmp_path_factory.mktemp("data"))


def examples(folder, split="train+validation+test"):
    builder = tfds.builder_from_directory(folder)
    return list(tfds.as_numpy(builder.as_dataset(split=split)))


def reference_and(miniature, source_id, qp):
    """The decoded reference, and the clip at a QP as it lies there or is encoded anew."""
    (folder,) = miniature.glob(f"{source_id}_*")
    reference = decode(folder / f"{folder.name}_qp_00.264", fps=FPS)
    path = folder / f"{folder.name}_qp_{qp:02d}.264"
    stream = path.read_bytes() if path.exists() else encode_h264(reference, qp=qp)
    return reference, stream, path.exists()


def test_each_source_gives_its_frames_once(dataset):
    keys = sorted((e["source_id"].decode(), int(e["frame_index"])) for e in examples(dataset))
    # 3 frames at 30000/1001 are 0.1 s: 20 frames a second are 2, the centres of two halves.
    assert keys == [(f"videoSRC00{i}", frame) for i in range(1, 7) for frame in (0, 2)]


def test_no_group_is_in_two_splits(dataset):
    groups = {
        split: {e["group_id"] for e in examples(dataset, split)}
        for split in ("train", "validation", "test")
    }
    assert all(groups.values())
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 3


def test_frames_are_those_of_the_clips_at_the_levels(dataset, miniature):
    anew = 0
    for example in examples(dataset):
        source_id, index = example["source_id"].decode(), int(example["frame_index"])
        for level in range(3):
            qp = int(example["jnd_levels"][level])
            reference, stream, is_there = reference_and(miniature, source_id, qp)
            raw = reference.rgb(index, width=32, height=32)
            coded = decode(stream, fps=FPS).rgb(index, width=32, height=32)
            np.testing.assert_array_equal(example["raw"], raw)
            np.testing.assert_array_equal(example[f"jnd{level + 1}"], coded)
            assert example["psnr_db"][level] == np.float32(psnr_rgb_db(raw, coded))
            assert example["level_origins"][level] == (b"file" if is_there else b"encoded")
            anew += not is_there
        assert example["timestamp_s"] == np.float32(index / FPS)
        assert example["spatial_information"] == np.float32(spatial_information(reference))
        assert example["temporal_information"] == np.float32(temporal_information(reference))
    assert anew  # a level off the grid of four QPs did occur


def test_labels_are_the_tables(dataset, miniature):
    table = {s.source_id: s for s in read_videoset_labels(miniature, "64x48").sources}
    for example in examples(dataset):
        levels = table[example["source_id"].decode()].levels
        np.testing.assert_array_equal(example["jnd_levels"], [level.jnd for level in levels])
        np.testing.assert_allclose(example["jnd_level_means"], [x.mean for x in levels], rtol=1e-6)
        samples = [tuple(row) for row in example["viewer_samples"]]
        assert samples == [level.samples for level in levels]


def test_quality_rows_are_what_is_measured_directly(dataset, miniature):
    rows = pq.read_table(dataset / "quality").to_pylist()
    levels = {e["source_id"].decode(): e["jnd_levels"].astype(int) for e in examples(dataset)}
    expected = {(key, qp) for key, qps in levels.items() for qp in {*SETTINGS.qps, *qps.tolist()}}
    assert {(row["source_id"], row["qp"]) for row in rows} == expected
    for row in rows:
        reference, stream, is_there = reference_and(miniature, row["source_id"], row["qp"])
        coded = decode(stream, fps=FPS)
        quality = measure_quality(reference, coded, rgb_width=32, rgb_height=32)
        for name in ("psnr_y_db", "psnr_rgb_db", "ssim", "xpsnr_db"):
            assert row[name] == getattr(quality, name)
        assert row["origin"] == ("file" if is_there else "encoded")
        assert row["num_bytes"] == len(stream)
        # 3 frames last 3 * 1001 / 30000 s.
        assert row["bitrate_kbps"] == pytest.approx(len(stream) * 8 / 1000 / (3 * 1001 / 30000))
        assert row["encoder"].startswith("x264 ")


def test_metadata_say_simulated_and_name_the_splits(dataset, miniature):
    info = tfds.builder_from_directory(dataset).info
    marker = json.loads((miniature / "SIMULATED.json").read_text())
    assert info.metadata["simulated"] is True
    assert info.metadata["simulation"] == marker["simulated_viewers"]
    assert info.metadata["seed"] == SETTINGS.seed
    assert (info.metadata["scale"], info.metadata["higher_is_worse"]) == ("QP", True)
    for split, source_ids in info.metadata["splits"].items():
        assert source_ids == sorted({e["source_id"].decode() for e in examples(dataset, split)})
    assert "simulated viewers" in info.description
    assert "1701.01500" in info.citation


def test_without_a_marker_the_viewers_are_people(miniature, tmp_path):
    shutil.copytree(miniature, tmp_path / "real")
    (tmp_path / "real" / "SIMULATED.json").unlink()
    folder = build(tmp_path / "real", tmp_path / "data")
    metadata = tfds.builder_from_directory(folder).info.metadata
    assert (metadata["simulated"], metadata["simulation"]) == (False, "")
    # Without word of groups, each source is its own.
    assert {e["group_id"] for e in examples(folder)} == {e["source_id"] for e in examples(folder)}


def test_a_marker_above_or_below_the_manual_folder_is_not_overlooked(miniature, tmp_path):
    shutil.copytree(miniature, tmp_path / "parent" / "mini")
    folder = build(tmp_path / "parent", tmp_path / "data")
    assert tfds.builder_from_directory(folder).info.metadata["simulated"] is True


def canonical(path):
    """A file's content; of records, with the fields of each in a fixed order.

    TFDS lets protobuf write the fields of an example in the order of a hash table, which differs
    from process to process.
    """
    if ".tfrecord" not in path.name:
        return path.read_bytes()
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [
        tf.train.Example.FromString(record).SerializeToString(deterministic=True)
        for record in records
    ]


def test_two_workers_write_the_same_files(dataset, miniature, tmp_path):
    again = build(miniature, tmp_path, num_workers=2)
    names = sorted(path.relative_to(dataset).as_posix() for path in dataset.rglob("*.*"))
    assert names == sorted(path.relative_to(again).as_posix() for path in again.rglob("*.*"))
    assert sum(".tfrecord" in name for name in names) == 3
    for name in names:
        assert canonical(again / name) == canonical(dataset / name), name


def damage(miniature, folder, source_ids):
    """A copy of the miniature in which one clip of each of these sources is cut short."""
    shutil.copytree(miniature, folder)
    for source_id in source_ids:
        (path,) = folder.glob(f"{source_id}_*/*_qp_34.264")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_build_that_loses_too_much_ends_in_one_clear_error(miniature, tmp_path, num_workers):
    damage(miniature, tmp_path / "mini", ["videoSRC002"])
    with pytest.raises(UserError) as error:
        build(tmp_path / "mini", tmp_path / "data", num_workers)
    text = str(error.value)
    assert "Work on 6 sources: expected at most 5% rejected, got 1 rejected" in text
    assert "videoSRC002_64x48_30_qp_34.264" in text
    assert "while running" not in text
    (refusal,) = (tmp_path / "data").rglob("rejected-*.parquet")
    assert str(refusal) in text
    assert [reject.where for reject in read_rejects(refusal)[0]] == ["videoSRC002"]
    # Nothing is left that TFDS would take for a dataset.
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))


def test_sources_lost_by_name_are_all_in_the_table_of_a_refused_build(miniature, tmp_path):
    shutil.copytree(miniature, tmp_path / "mini")
    for path in (tmp_path / "mini").glob("*/*_qp_00.264"):
        path.unlink()
    with pytest.raises(UserError, match="6 rejected: .*All of them: "):
        build(tmp_path / "mini", tmp_path / "data")
    (refusal,) = (tmp_path / "data").rglob("rejected-*.parquet")
    assert len(read_rejects(refusal)[0]) == 6


def test_another_grouping_is_another_dataset(miniature, tmp_path):
    shutil.copytree(miniature, tmp_path / "mini")
    before = take_inventory(tmp_path / "mini", TINY.resolution).fingerprint
    path = tmp_path / "mini" / "SIMULATED.json"
    marker = json.loads(path.read_text())
    path.write_text(json.dumps({**marker, "groups": dict.fromkeys(marker["groups"], "one")}))
    assert take_inventory(tmp_path / "mini", TINY.resolution).fingerprint != before


def test_a_few_rejects_are_left_out_and_counted(miniature, tmp_path, monkeypatch):
    monkeypatch.setattr("beam_pipelines.rejects.check_share.__kwdefaults__", {"max_share": 0.4})
    damage(miniature, tmp_path / "mini", ["videoSRC002"])
    (clip,) = (tmp_path / "mini").glob("videoSRC006_*/*_qp_00.264")
    clip.unlink()
    folder = build(tmp_path / "mini", tmp_path / "data")
    rejects, total = read_rejects(folder / "rejects.parquet")
    assert total == 6
    assert [(r.where, r.stage) for r in rejects] == [
        ("videoSRC002", "measure"),
        ("videoSRC006", "find"),
    ]
    assert "no reference (QP 0)" in rejects[1].reason
    left = {e["source_id"].decode() for e in examples(folder)}
    assert left == {f"videoSRC00{i}" for i in (1, 3, 4, 5)}
    assert not list((tmp_path / "data").rglob("rejected-*"))


def test_too_few_groups_are_an_error(miniature, tmp_path):
    shutil.copytree(miniature, tmp_path / "mini")
    path = tmp_path / "mini" / "SIMULATED.json"
    marker = json.loads(path.read_text())
    path.write_text(json.dumps({**marker, "groups": dict.fromkeys(marker["groups"], "one")}))
    with pytest.raises(UserError, match="three groups or more.*none left for test, validation"):
        build(tmp_path / "mini", tmp_path / "data")


@pytest.mark.parametrize("text", ["{", "[]", '{"simulated": true}'])
def test_a_marker_that_does_not_say_how_is_an_error(miniature, tmp_path, text):
    shutil.copytree(miniature, tmp_path / "mini")
    (tmp_path / "mini" / "SIMULATED.json").write_text(text)
    with pytest.raises(UserError, match="Marker .*Make the miniature again"):
        build(tmp_path / "mini", tmp_path / "data")


def test_a_manual_folder_without_clips_is_an_error(miniature, tmp_path):
    for path in miniature.glob("*.csv"):
        shutil.copy(path, tmp_path)
    with pytest.raises(UserError, match="expected clips such as videoSRC001_64x48_30_qp_22.264"):
        build(tmp_path, tmp_path / "data")


def test_a_place_that_cannot_be_written_is_an_error(miniature, tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises((UserError, OSError), match="data"):
        build(miniature, tmp_path / "data" / "deeper")


def test_frames_are_taken_at_the_centres_of_equal_intervals():
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
        "videoset_jnd/360p/1.0.0 (352, 640, 3)",
        "['1080p', '360p', '540p', '720p', 'miniature']",
    ]
