"""Builds from damaged or incomplete input: what is lost, and how it is reported."""

import shutil
import socket

import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from videoset_builds import TINY, build, damage, examples, inventory_of

from beam_pipelines.rejects import read_rejects
from beam_pipelines.runner import local_options
from laser_dist.errors import UserError
from tfds_builders.jnd_dataset import BuildRequest
from tfds_builders.videoset_jnd.videoset_jnd_dataset_builder import Builder

pytestmark = [
    pytest.mark.beam,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
    # TFDS calls protobuf in a way that newer versions deprecate.
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),
]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_build_with_too_many_rejects_is_a_user_error(synthetic, tmp_path, num_workers):
    damage(synthetic, tmp_path / "mini", (2, 0))
    with pytest.raises(UserError) as error:
        build(tmp_path / "mini", tmp_path / "data", num_workers)
    text = str(error.value)
    assert "1 of 6 sources have rejected inputs, more than the accepted 5%" in text
    assert "videoSRC002_64x48_30_qp_00.264" in text
    assert "while running" not in text
    (refusal,) = (tmp_path / "data").rglob("rejected-*.parquet")
    assert str(refusal) in text
    assert [reject.where for reject in read_rejects(refusal)[0]] == ["videoSRC002"]
    # Nothing is left that TFDS would load.
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


def test_a_build_stops_as_soon_as_there_are_too_many_rejects(synthetic, tmp_path):
    damage(synthetic, tmp_path / "mini", (5, 0))
    (clip,) = (tmp_path / "mini").glob("videoSRC005_*/*_qp_22.264")
    clip.write_bytes(clip.read_bytes() + bytes(1 << 20))  # the largest source is measured first
    with pytest.raises(UserError, match=r"1 of 6 sources .* videoSRC005"):
        build(tmp_path / "mini", tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.pairs.parquet"))


def test_a_build_reuses_what_an_earlier_one_has_measured(synthetic, dataset, tmp_path):
    damage(synthetic, tmp_path / "mini", (2, 0))
    with pytest.raises(UserError):
        build(tmp_path / "mini", tmp_path / "data")
    (work,) = (tmp_path / "data").rglob(".unfinished-2.0.0")
    before = {path.name: path.stat().st_mtime_ns for path in work.glob("*.pairs.parquet")}
    assert len(before) == 5
    # A changed clip is measured again, the others are not.
    changed = next((tmp_path / "mini").glob("videoSRC004_*/*_qp_28.264"))
    changed.touch()
    with pytest.raises(UserError):
        build(tmp_path / "mini", tmp_path / "data")
    after = {path.name: path.stat().st_mtime_ns for path in work.glob("*.pairs.parquet")}
    assert before.items() <= after.items()
    assert [name.partition("-")[0] for name in after.keys() - before.keys()] == ["videoSRC004"]
    (whole,) = synthetic.glob("videoSRC002_*/*_qp_00.264")
    shutil.copy(whole, tmp_path / "mini" / whole.relative_to(synthetic))
    folder = build(tmp_path / "mini", tmp_path / "data")
    for path in dataset.glob("*.tfrecord*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert not work.exists()


def test_the_table_of_a_refused_build_lists_all_sources_lost_by_name(synthetic, tmp_path):
    shutil.copytree(synthetic, tmp_path / "mini")
    for path in (tmp_path / "mini").glob("*/*_qp_00.264"):
        path.unlink()
    with pytest.raises(
        UserError, match="(?s)6 of 6 sources.*All rejects found so far are listed in "
    ):
        build(tmp_path / "mini", tmp_path / "data")
    (refusal,) = (tmp_path / "data").rglob("rejected-*.parquet")
    assert len(read_rejects(refusal)[0]) == 6


def test_a_few_rejects_are_left_out_and_listed(synthetic, dataset, tmp_path):
    damage(synthetic, tmp_path / "mini", (1, 34), (2, 0))
    (clip,) = (tmp_path / "mini").glob("videoSRC006_*/*_qp_00.264")
    clip.unlink()
    builder = Builder(data_dir=tmp_path / "data", config=TINY)
    builder.request = BuildRequest(
        manual_dir=str(tmp_path / "mini"), options=local_options(1), max_reject_rate=0.5
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
    assert sorted(sum(metadata["splits"].values(), [])) == sorted(left)
    # The source without a clip has no row for it, unless a level is encoded there.
    rows = pq.read_table(folder / "quality" / "videoSRC001.parquet").to_pylist()
    levels = left["videoSRC001"]["jnd_levels"].astype(int)
    assert {row["qp"]: row["origin"] for row in rows if row["qp"] == 34} == (
        {34: "encoded"} if 34 in levels else {}
    )
    assert not list((tmp_path / "data").rglob("rejected-*"))


def build_with(request, data_dir):
    builder = Builder(data_dir=data_dir, config=TINY)
    builder.request = request
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return tfds.builder_from_directory(builder.data_path).info.metadata


def test_the_fingerprint_covers_what_was_rejected_while_measuring(synthetic, dataset, tmp_path):
    shutil.copytree(synthetic, tmp_path / "mini")
    (clip,) = (tmp_path / "mini").glob("videoSRC001_*/*_qp_34.264")
    clip.write_bytes(bytes(clip.stat().st_size))  # with the same name and size
    request = BuildRequest(
        manual_dir=str(tmp_path / "mini"), options=local_options(1), max_reject_rate=0.5
    )
    damaged = build_with(request, tmp_path / "data")
    whole = tfds.builder_from_directory(dataset).info.metadata
    assert damaged["input_fingerprint"] == whole["input_fingerprint"]
    assert damaged["fingerprint"] != whole["fingerprint"]


def test_a_named_part_counts_its_own_rejects_only(synthetic, tmp_path):
    damage(synthetic, tmp_path / "mini", (2, 0))
    inventory = inventory_of(tmp_path / "mini")
    with pytest.raises(UserError, match="No source matches videoSRC9"):
        inventory.part_of(["videoSRC9*"])

    def build_part(*patterns):
        request = BuildRequest(
            manual_dir=str(tmp_path / "mini"),
            inventory=inventory.part_of(patterns),
            options=local_options(1),
            max_reject_rate=0.2,
        )
        return build_with(request, tmp_path / "data" / patterns[0])

    part = build_part("videoSRC001", "videoSRC00[3-6]")
    assert part["part"] == ["videoSRC001", "videoSRC00[3-6]"]
    assert part["input_fingerprint"] != Builder(data_dir=tmp_path, config=TINY).input_fingerprint(
        inventory
    )
    sources = sorted(source for split in part["splits"].values() for source in split)
    assert sources == [f"videoSRC00{number}" for number in (1, 3, 4, 5, 6)]
    # 1 of all 6 sources is less than 20%, 1 of these 4 is more.
    with pytest.raises(UserError, match="1 of 4 sources have rejected inputs"):
        build_part("videoSRC00[1246]")


def test_clips_that_name_other_files_or_addresses_are_rejects(synthetic, tmp_path, monkeypatch):
    shutil.copytree(synthetic, tmp_path / "mini")
    monkeypatch.chdir(tmp_path)
    (reference,) = synthetic.glob("videoSRC001_*/*_qp_00.264")
    shutil.copy(reference, tmp_path / "secret.264")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/seg.ts"
        playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"
        hostile = (
            "ffconcat version 1.0\nfile secret.264\n",
            playlist.format(address),
            playlist.format(tmp_path / "secret.264"),
            "v=0\nc=IN IP4 127.0.0.1\nm=video 18998 RTP/AVP 33\n",
            "hello world" * 100,
        )
        for number, content in enumerate(hostile, start=1):
            (clip,) = (tmp_path / "mini").glob(f"videoSRC00{number}_*/*_qp_34.264")
            clip.write_text(content)
        builder = Builder(data_dir=tmp_path / "data", config=TINY)
        builder.request = BuildRequest(
            manual_dir=str(tmp_path / "mini"), options=local_options(1), max_reject_rate=1.0
        )
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
        with pytest.raises(BlockingIOError):
            server.accept()
    rejects, _ = read_rejects(builder.data_path / "rejects.parquet")
    assert [(r.where.rpartition("/")[2][:11], r.stage) for r in rejects] == [
        (f"videoSRC00{number}", "measure") for number in range(1, 6)
    ]
    assert {reject.why for reject in rejects} == {
        "Cannot decode it: it is damaged, or not a video or image of a supported format"
    }


def test_a_split_that_loses_all_of_its_sources_is_an_error(synthetic, dataset, tmp_path):
    splits = tfds.builder_from_directory(dataset).info.metadata["splits"]
    damage(synthetic, tmp_path / "mini", *((int(each[-3:]), 0) for each in splits["test"]))
    builder = Builder(data_dir=tmp_path / "data", config=TINY)
    builder.request = BuildRequest(
        manual_dir=str(tmp_path / "mini"), options=local_options(1), max_reject_rate=1.0
    )
    with pytest.raises(
        UserError,
        match="(?s)2 sources .* leaves none for test.*All rejects",
    ):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    (refusal,) = (tmp_path / "data").rglob("rejected-*.parquet")
    assert {reject.where for reject in read_rejects(refusal)[0]} == set(splits["test"])
    assert not list((tmp_path / "data").rglob("dataset_info.json"))
