"""The builder on a tiny miniature: six clips of three photographs, real files throughout."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from beam_pipelines.inputs.videoset_files import take_inventory
from beam_pipelines.miniature.footage import Footage
from beam_pipelines.miniature.pipeline import make_miniature
from beam_pipelines.miniature.videoset import VideosetSettings
from beam_pipelines.rejects_table import read_rejects
from beam_pipelines.runner import local_options
from beam_pipelines.storage import list_files
from laser_dist.errors import UserError
from laser_dist.jnd.labels import read_videoset_labels
from laser_dist.jnd.layout import FRAME_RATES
from laser_dist.video.activity import spatial_information, temporal_information
from laser_dist.video.codec import decode, encode_h264, x264_version_of
from laser_dist.video.quality import measure_quality, psnr_rgb_db
from tfds_builders.jnd_dataset import BuildRequest, derived_config
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
    expected = {
        (key, qp) for key, qps in levels.items() for qp in {0, *SETTINGS.qps, *qps.tolist()}
    }
    assert {(row["source_id"], row["qp"]) for row in rows} == expected
    for row in rows:
        reference, stream, is_there = reference_and(miniature, row["source_id"], row["qp"])
        coded = decode(stream, fps=FPS)
        rgb = [clip.rgb_frames(width=32, height=32) for clip in (reference, coded)]
        quality = measure_quality(reference, coded, reference_rgb=rgb[0], distorted_rgb=rgb[1])
        for name in ("psnr_y_db", "psnr_rgb_db", "ssim", "xpsnr_db"):
            assert row[name] == getattr(quality, name)
        assert row["origin"] == ("file" if is_there else "encoded")
        assert row["num_bits"] == 8 * len(stream)
        # 3 frames last 3 * 1001 / 30000 s.
        assert row["bitrate_kbps"] == pytest.approx(len(stream) * 8 / 1000 / (3 * 1001 / 30000))
        assert row["encoder"] == "x264"
        assert row["encoder_version"] == x264_version_of(stream)


def test_one_source_of_the_quality_table_can_be_read_alone(dataset):
    rows = pq.read_table(dataset / "quality" / "videoSRC003.parquet").to_pylist()
    assert {row["source_id"] for row in rows} == {"videoSRC003"}
    assert [row["qp"] for row in rows] == sorted({row["qp"] for row in rows})


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


def test_two_workers_write_the_same_bytes(dataset, miniature, tmp_path):
    again = build(miniature, tmp_path, num_workers=2)
    names = sorted(path.relative_to(dataset).as_posix() for path in dataset.rglob("*.*"))
    assert names == sorted(path.relative_to(again).as_posix() for path in again.rglob("*.*"))
    assert sum(".tfrecord" in name for name in names) == 3
    for name in names:
        assert (again / name).read_bytes() == (dataset / name).read_bytes(), name


@pytest.mark.parametrize("file_format", ["array_record", "parquet"])
def test_every_format_holds_the_same_examples(file_format, dataset, miniature, tmp_path):
    builder = Builder(data_dir=tmp_path, config=TINY)
    builder.request = BuildRequest(manual_dir=str(miniature), options=local_options(1))
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        file_format=file_format,
    )
    if file_format == "parquet":
        found = examples(builder.data_path)
    else:
        sources = tfds.builder_from_directory(builder.data_path).as_data_source()
        found = [example for split in ("train", "validation", "test") for example in sources[split]]
    for one, other in zip(examples(dataset), found, strict=True):
        for name in one:
            if name == "viewer_samples":
                theirs = [list(row) for row in other[name]]
                assert [list(row) for row in one[name]] == theirs
            else:
                np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def transcoded(miniature, folder, suffix):
    """A copy of the miniature whose clips lie in other containers, or decoded."""
    shutil.copytree(miniature, folder)
    for path in sorted(folder.rglob("*.264")):
        target = path.with_suffix(suffix)
        if suffix == ".yuv":
            clip = decode(path, fps=FPS)
            planes = zip(clip.y, clip.u, clip.v, strict=True)
            target.write_bytes(b"".join(p.tobytes() for frame in planes for p in frame))
        else:
            target.write_bytes(remuxed(path.read_bytes(), suffix.removeprefix(".")))
        path.unlink()


def remuxed(stream, container):
    """The same coded pictures in a container of FFmpeg's."""
    target = io.BytesIO()
    with av.open(io.BytesIO(stream), "r", options={"framerate": "30000/1001"}) as source:
        with av.open(target, "w", format=container) as output:
            (ours,) = source.streams.video
            theirs = output.add_stream_from_template(ours)
            packets = [packet for packet in source.demux(ours) if packet.size]
            for number, packet in enumerate(packets):
                packet.dts = number
                packet.pts = packet.pts if packet.pts is not None else number
                packet.time_base = Fraction(1001, 30000)
                packet.stream = theirs
                output.mux(packet)
    return target.getvalue()


def in_archives(miniature, folder):
    """The miniature's clips in two archives, one of them issued anew, and its tables beside."""
    folder.mkdir()
    for path in (*miniature.glob("*.csv"), miniature / "SIMULATED.json"):
        shutil.copy(path, folder)
    clips = sorted(miniature.rglob("*.264"))
    half = len(clips) // 2
    parts = {
        "64x48_part_1.tar.gz": clips[:half],
        "64x48_part_2.tar.gz": clips[:3],
        "64x48_part_2_fix.tar.gz": clips[half:],
    }
    for name, members in parts.items():
        with tarfile.open(folder / name, "w:gz") as archive:
            for path in members:
                archive.add(path, f"part/{path.relative_to(miniature)}")


@pytest.mark.parametrize("form", [".mp4", ".yuv", ".tar.gz"])
def test_every_form_of_the_clips_gives_the_same_examples(form, dataset, miniature, tmp_path):
    if form == ".tar.gz":
        in_archives(miniature, tmp_path / "mini")
    else:
        transcoded(miniature, tmp_path / "mini", form)
    folder = build(tmp_path / "mini", tmp_path / "data")
    rejects, _ = read_rejects(folder / "rejects.parquet")
    replaced = [reject.where for reject in rejects if "replaced by" in reject.reason]
    assert len(replaced) == len(rejects) == (form == ".tar.gz")
    shards = sorted(path.name for path in dataset.glob("*.tfrecord*"))
    assert len(shards) == 3
    for name in shards:
        assert (folder / name).read_bytes() == (dataset / name).read_bytes(), name
    rows, expected = (pq.read_table(each / "quality").to_pylist() for each in (folder, dataset))
    for row, other in zip(rows, expected, strict=True):
        if row["origin"] == "encoded" or form == ".tar.gz":
            assert row == other
        elif form == ".yuv":
            assert (row["num_bits"], row["bitrate_kbps"], row["encoder"]) == (None, None, "")
        else:
            # Parameter sets lie outside the pictures there.
            assert row["num_bits"] == pytest.approx(other["num_bits"], rel=0.2)
            assert row["encoder_version"] == other["encoder_version"]
        for name in ("psnr_y_db", "psnr_rgb_db", "ssim", "xpsnr_db"):
            assert row[name] == other[name]


def damage(miniature, folder, *clips):
    """A copy of the miniature in which some clips, (source number, QP), are cut short."""
    shutil.copytree(miniature, folder)
    for number, qp in clips:
        (path,) = folder.glob(f"videoSRC{number:03d}_*/*_qp_{qp:02d}.264")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_build_that_loses_too_much_ends_in_one_clear_error(miniature, tmp_path, num_workers):
    damage(miniature, tmp_path / "mini", (2, 0))
    with pytest.raises(UserError) as error:
        build(tmp_path / "mini", tmp_path / "data", num_workers)
    text = str(error.value)
    assert "Work on 6 sources: expected at most 5% of them with rejects, got 1 (1 in all)" in text
    assert "videoSRC002_64x48_30_qp_00.264" in text
    assert "while running" not in text
    (refusal,) = (tmp_path / "data").rglob("rejected-*.parquet")
    assert str(refusal) in text
    assert [reject.where for reject in read_rejects(refusal)[0]] == ["videoSRC002"]
    # Nothing is left that TFDS would take for a dataset.
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


def test_a_build_goes_on_with_what_an_earlier_one_has_measured(miniature, dataset, tmp_path):
    damage(miniature, tmp_path / "mini", (2, 0))
    with pytest.raises(UserError):
        build(tmp_path / "mini", tmp_path / "data")
    (work,) = (tmp_path / "data").rglob(".unfinished-1.0.0")
    before = {path.name: path.stat().st_mtime_ns for path in work.glob("*.pairs.parquet")}
    assert len(before) == 5
    # A clip that has changed is measured anew, the others are not.
    changed = next((tmp_path / "mini").glob("videoSRC004_*/*_qp_28.264"))
    changed.touch()
    with pytest.raises(UserError):
        build(tmp_path / "mini", tmp_path / "data")
    after = {path.name: path.stat().st_mtime_ns for path in work.glob("*.pairs.parquet")}
    assert before.items() <= after.items()
    assert [name.partition("-")[0] for name in after.keys() - before.keys()] == ["videoSRC004"]
    (whole,) = miniature.glob("videoSRC002_*/*_qp_00.264")
    shutil.copy(whole, tmp_path / "mini" / whole.relative_to(miniature))
    folder = build(tmp_path / "mini", tmp_path / "data")
    for path in dataset.glob("*.tfrecord*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert not work.exists()


def test_sources_lost_by_name_are_all_in_the_table_of_a_refused_build(miniature, tmp_path):
    shutil.copytree(miniature, tmp_path / "mini")
    for path in (tmp_path / "mini").glob("*/*_qp_00.264"):
        path.unlink()
    with pytest.raises(UserError, match="6 .6 in all.: .*All of them: "):
        build(tmp_path / "mini", tmp_path / "data")
    (refusal,) = (tmp_path / "data").rglob("rejected-*.parquet")
    assert len(read_rejects(refusal)[0]) == 6


def inventory_of(folder):
    return take_inventory(list_files(folder), str(folder), TINY.resolution)


def test_another_grouping_is_another_dataset(miniature, tmp_path):
    shutil.copytree(miniature, tmp_path / "mini")
    before = inventory_of(tmp_path / "mini").fingerprint
    path = tmp_path / "mini" / "SIMULATED.json"
    marker = json.loads(path.read_text())
    path.write_text(json.dumps({**marker, "groups": dict.fromkeys(marker["groups"], "one")}))
    assert inventory_of(tmp_path / "mini").fingerprint != before


def test_settings_are_part_of_the_fingerprint(miniature, tmp_path):
    inventory = inventory_of(miniature)
    changes = ({}, {"model_width": 64}, {"frames_per_second": None})
    builders = [Builder(data_dir=tmp_path, config=replace(TINY, **change)) for change in changes]
    assert len({builder.fingerprint(inventory) for builder in builders}) == 3
    by_mean = take_inventory(
        list_files(miniature), "mini", TINY.resolution, level_definition="mean"
    )
    assert by_mean.fingerprint != inventory.fingerprint


def test_a_few_rejects_are_left_out_and_counted(miniature, dataset, tmp_path):
    damage(miniature, tmp_path / "mini", (1, 34), (2, 0))
    (clip,) = (tmp_path / "mini").glob("videoSRC006_*/*_qp_00.264")
    clip.unlink()
    builder = Builder(data_dir=tmp_path / "data", config=TINY)
    builder.request = BuildRequest(
        manual_dir=str(tmp_path / "mini"), options=local_options(1), max_rejects=0.5
    )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    folder = builder.data_path
    rejects, total = read_rejects(folder / "rejects.parquet")
    assert total == 6
    found = [(r.what, r.where.rpartition("/")[2], r.stage) for r in rejects]
    assert sorted(found) == [
        ("clip", "videoSRC001_64x48_30_qp_34.264", "measure"),
        ("source", "videoSRC002", "measure"),
        ("source", "videoSRC006", "find"),
    ]
    left = {e["source_id"].decode(): e for e in examples(folder)}
    assert left.keys() == {f"videoSRC00{i}" for i in (1, 3, 4, 5)}
    metadata = tfds.builder_from_directory(folder).info.metadata
    for parts in (metadata["splits"].values(), metadata["folds"]):
        assert sorted(source_id for part in parts for source_id in part) == sorted(left)
    # The source that lost a clip has no row for it; a level there is coded anew instead.
    rows = pq.read_table(folder / "quality" / "videoSRC001.parquet").to_pylist()
    levels = left["videoSRC001"]["jnd_levels"].astype(int)
    assert {row["qp"]: row["origin"] for row in rows if row["qp"] == 34} == (
        {34: "encoded"} if 34 in levels else {}
    )
    assert not list((tmp_path / "data").rglob("rejected-*"))


def test_a_split_that_loses_all_of_its_sources_is_an_error(miniature, dataset, tmp_path):
    splits = tfds.builder_from_directory(dataset).info.metadata["splits"]
    damage(miniature, tmp_path / "mini", *((int(each[-3:]), 0) for each in splits["test"]))
    builder = Builder(data_dir=tmp_path / "data", config=TINY)
    builder.request = BuildRequest(
        manual_dir=str(tmp_path / "mini"), options=local_options(1), max_rejects=1.0
    )
    with pytest.raises(UserError, match=r"none left for test, as 2 were lost.*All of them: "):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    (refusal,) = (tmp_path / "data").rglob("rejected-*.parquet")
    assert {reject.where for reject in read_rejects(refusal)[0]} == set(splits["test"])
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


def test_all_frames_and_levels_that_are_means(miniature, tmp_path):
    config = derived_config(TINY, {"frames_per_second": None, "level_definition": "mean"})
    assert config.name == "tiny-all-frames-mean"
    folder = build(miniature, tmp_path, config=config)
    found = examples(folder)
    assert sorted(e["frame_index"] for e in found) == sorted([0, 1, 2] * 6)
    assert tfds.builder_from_directory(folder).info.metadata["level_definition"].startswith("the m")
    for example in found:
        np.testing.assert_array_equal(example["jnd_levels"], example["jnd_level_means"])
        reference, stream, _ = reference_and(
            miniature, example["source_id"].decode(), int(example["jnd_levels"][1] + 0.5)
        )
        coded = decode(stream, fps=FPS).rgb(int(example["frame_index"]), width=32, height=32)
        np.testing.assert_array_equal(example["jnd2"], coded)


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


def test_folds_are_listed_and_hold_each_source_once(dataset):
    metadata = tfds.builder_from_directory(dataset).info.metadata
    folds = metadata["folds"]
    assert len(folds) == 3  # five are wanted, but there are three groups
    ids = [f"videoSRC00{i}" for i in range(1, 7)]
    assert sorted(source_id for fold in folds for source_id in fold) == ids


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
