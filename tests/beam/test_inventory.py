"""Clips and labels matched by name, and every way in which they can be incomplete."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from beam_pipelines.inputs.archives import is_archive, members_of, needs_index
from beam_pipelines.inputs.inventory import first_of_each, missing_clips, take_inventory
from beam_pipelines.inputs.tar_index import index_tar
from beam_pipelines.inputs.videoset_files import VideosetFiles
from beam_pipelines.rejects import impaired_sources
from laser_dist.errors import UserError
from laser_dist.jnd.videoset_labels import COLUMNS, label_file_name
from laser_dist.jnd.videoset_layout import ClipName
from laser_dist.simulation import MARKER_NAME
from laser_dist.storage import StoredFile, list_files

RESOLUTION = "64x48"
LEVELS = (20, 25, 30)


def labels(folder, levels_by_source, samples=None):
    for index in range(3):
        rows = [",".join(COLUMNS)]
        for number, levels in levels_by_source.items():
            found = (samples or {}).get((number, index), [min(levels[index], 51)] * 3)
            mean = sum(found) / len(found)
            listed = ", ".join(map(str, found))
            rows.append(f'0,{levels[index]},{mean},1,"[{listed}]",{len(found)},{number},0')
        (folder / label_file_name(RESOLUTION, index)).write_text("\n".join(rows))


def clip_path(number, qp, *, rate=30, suffix="264", size=(64, 48)):
    width, height = size
    name = ClipName(
        source_index=number, width=width, height=height, rate=rate, qp=qp, suffix=suffix
    )
    return name.path


def touch(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")


def clips(folder, numbers, qps=(0, 20, 30)):
    touch(folder, *(clip_path(number, qp) for number in numbers for qp in qps))


def inventory_of(folder, definition="jnd", split_by="film"):
    index = folder.parent / f"{folder.name}-index"
    files = []
    for file in list_files(folder):
        if is_archive(file):
            if needs_index(file, str(index)):
                index_tar(file, str(index))
            files += members_of(file, str(index))[0]
        else:
            files.append(file)
    return take_inventory(files, str(folder), VideosetFiles(RESOLUTION, definition, split_by))


def rejects_of(inventory):
    """Return (what, last part of where, why) of each reject."""
    assert {reject.stage for reject in inventory.rejects} <= {"find"}
    return [(r.what, r.where.rpartition("/")[2], r.why) for r in inventory.rejects]


def ids(inventory):
    return [source.source_id for source in inventory.sources]


def test_a_complete_folder_has_no_rejects(tmp_path):
    labels(tmp_path, {1: LEVELS, 2: LEVELS})
    clips(tmp_path, (1, 2))
    inventory = inventory_of(tmp_path)
    assert (ids(inventory), rejects_of(inventory)) == (["videoSRC001", "videoSRC002"], [])
    (first, _) = inventory.sources
    assert [qp for qp, _ in first.clips] == [0, 20, 30]
    assert first.level_quantizers == LEVELS
    assert inventory.num_sources == 2


def test_a_source_with_labels_only_is_lost(tmp_path):
    labels(tmp_path, {1: LEVELS, 2: LEVELS})
    clips(tmp_path, (1,))
    inventory = inventory_of(tmp_path)
    assert ids(inventory) == ["videoSRC001"]
    assert rejects_of(inventory) == [("source", "videoSRC002", "it has labels but no clips")]
    assert inventory.num_sources == 2


def test_a_source_with_clips_only_is_lost(tmp_path):
    labels(tmp_path, {1: LEVELS})
    clips(tmp_path, (1, 3))
    inventory = inventory_of(tmp_path)
    assert rejects_of(inventory) == [("source", "videoSRC003", "it has clips but no labels")]


def test_a_source_without_its_reference_is_lost(tmp_path):
    labels(tmp_path, {1: LEVELS, 2: LEVELS})
    clips(tmp_path, (1,))
    clips(tmp_path, (2,), qps=(20, 30))
    assert rejects_of(inventory_of(tmp_path)) == [("source", "videoSRC002", "no reference (QP 0)")]


def test_a_source_with_a_row_in_two_of_three_tables_is_lost(tmp_path):
    labels(tmp_path, {1: LEVELS, 2: LEVELS})
    table = tmp_path / label_file_name(RESOLUTION, 2)
    table.write_text("\n".join(table.read_text().splitlines()[:2]))
    clips(tmp_path, (1, 2))
    ((what, where, why),) = rejects_of(inventory_of(tmp_path))
    assert (what, where) == ("source", "videoSRC002")
    assert "no row" in why


@pytest.mark.parametrize("levels", [(30, 24, 35), (20, 30, 25), (0, 25, 30), (20, 25, 52)])
def test_impossible_levels_lose_the_source_once(tmp_path, levels):
    labels(tmp_path, {1: LEVELS, 2: levels})
    clips(tmp_path, (1, 2))
    inventory = inventory_of(tmp_path)
    assert ids(inventory) == ["videoSRC001"]
    ((what, where, _),) = rejects_of(inventory)
    assert (what, where) == ("source", "videoSRC002")
    assert inventory.num_sources == 2


def test_means_in_a_wrong_order_lose_the_source_if_levels_are_means(tmp_path):
    labels(tmp_path, {1: LEVELS, 2: LEVELS}, samples={(2, 1): [25, 2, 2]})
    clips(tmp_path, (1, 2))
    assert rejects_of(inventory_of(tmp_path)) == []  # column jnd is in order
    ((what, where, why),) = rejects_of(inventory_of(tmp_path, "mean"))
    assert (what, where) == ("source", "videoSRC002")
    assert "20, 9.66667, 30" in why


def test_a_clip_that_most_sources_have_is_reported_as_missing(tmp_path):
    numbers = range(1, 6)
    labels(tmp_path, dict.fromkeys(numbers, LEVELS))
    clips(tmp_path, numbers)
    touch(tmp_path, *(clip_path(number, 40) for number in (1, 2)))  # two of five
    touch(tmp_path, *(clip_path(number, 45) for number in (1, 2, 3)))  # three of five: most
    (tmp_path / clip_path(4, 20)).unlink()
    why = "missing, though most sources have it"
    assert rejects_of(inventory_of(tmp_path)) == [
        ("clip", clip_path(4, 20).name, why),
        ("file", "QP 40", "missing for 3 of 5 sources"),
        ("clip", clip_path(4, 45).name, why),
        ("clip", clip_path(5, 45).name, why),
    ]


def test_half_of_the_sources_are_not_most():
    files = [StoredFile(f"/{clip_path(number, 0)}") for number in range(1, 5)]
    found = {
        f"s{number}": {0: file, **({20: file} if number < 3 else {})}
        for number, file in enumerate(files, start=1)
    }
    layout = VideosetFiles(RESOLUTION)
    (reject,) = missing_clips(found, layout)
    assert str(reject) == "file QP 20 (find): missing for 2 of 4 sources"
    assert not impaired_sources([reject])
    found["s3"][20] = files[2]
    (reject,) = missing_clips(found, layout)
    assert (reject.what, reject.where) == ("clip", clip_path(4, 20).name)
    assert reject.source_id == "s4"


def test_a_file_is_preferred_to_an_archive_member(tmp_path):
    labels(tmp_path, {1: LEVELS})
    clips(tmp_path, (1,))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(str(clip_path(1, 20)), b"in the archive")
    inventory = inventory_of(tmp_path)
    assert not any(file.member for _, file in inventory.sources[0].clips)
    ((what, where, why),) = rejects_of(inventory)
    assert (what, where) == ("copy", clip_path(1, 20).name)
    assert why.startswith("a duplicate; ")


def test_a_raw_stream_is_preferred_to_containers(tmp_path):
    labels(tmp_path, {1: LEVELS})
    clips(tmp_path, (1,))
    for suffix in ("yuv", "avi", "mp4"):
        touch(tmp_path, clip_path(1, 20, suffix=suffix), clip_path(1, 22, suffix=suffix))
    inventory = inventory_of(tmp_path)
    chosen = {qp: Path(file.location).suffix for qp, file in inventory.sources[0].clips}
    assert chosen == {0: ".264", 20: ".264", 22: ".mp4", 30: ".264"}
    assert [(what, where[-6:]) for what, where, _ in rejects_of(inventory)] == [
        ("copy", suffix) for suffix in ("20.mp4", "20.avi", "20.yuv", "22.avi", "22.yuv")
    ]


def test_a_second_folder_of_a_source_is_a_copy_in_any_file_order():
    files = [StoredFile(f"/{folder}/c.264") for folder in "cab"]
    found, rejects = first_of_each([("s", 1, file) for file in files], lambda file: file.location)
    assert found["s"][1].location == "/a/c.264"
    assert [reject.where for reject in rejects] == ["/b/c.264", "/c/c.264"]
    again, _ = first_of_each([("s", 1, f) for f in reversed(files)], lambda file: file.location)
    assert again == found


def test_a_raw_file_is_preferred_to_a_stream_in_an_archive(tmp_path):
    labels(tmp_path, {1: LEVELS})
    clips(tmp_path, (1,), qps=(0,))
    touch(tmp_path, clip_path(1, 20, suffix="yuv"))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo(str(clip_path(1, 20)))
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    (source,) = inventory_of(tmp_path).sources
    assert Path(dict(source.clips)[20].location).suffix == ".yuv"


@pytest.mark.parametrize(
    "name",
    ["videoSRC001_64x48_30_qp_77.264", "videoSRC001_64x48_25_qp_20.264", "videoSRC001.mkv"],
)
def test_a_misnamed_clip_is_rejected(tmp_path, name):
    labels(tmp_path, {1: LEVELS})
    clips(tmp_path, (1,))
    touch(tmp_path, name)
    ((what, where, _),) = rejects_of(inventory_of(tmp_path))
    assert (what, where) == ("file", name)


def test_clips_of_other_resolutions_are_ignored(tmp_path):
    labels(tmp_path, {1: LEVELS})
    clips(tmp_path, (1,))
    touch(tmp_path, clip_path(1, 20, size=(1280, 720)), clip_path(2, 20, size=(1280, 720)))
    assert rejects_of(inventory_of(tmp_path)) == []


def test_clips_of_two_frame_rates_lose_the_source(tmp_path):
    labels(tmp_path, {1: LEVELS, 2: LEVELS})
    clips(tmp_path, (1, 2))
    touch(tmp_path, clip_path(2, 25, rate=24))
    assert rejects_of(inventory_of(tmp_path)) == [
        ("source", "videoSRC002", "clips of 24 and of 30 frames per second")
    ]


@pytest.mark.parametrize("name", [label_file_name(RESOLUTION, 1), MARKER_NAME])
def test_labels_above_the_limit_are_not_read(name, tmp_path):
    folder = tmp_path / "data"
    clips(folder, (1,))
    labels(folder, {1: LEVELS})
    (folder / name).unlink(missing_ok=True)
    with zipfile.ZipFile(folder / "labels.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"0123456789" * 1_600_001)
    with pytest.raises(UserError, match=r"labels\.zip.* has 16,000,010 bytes; the limit is"):
        inventory_of(folder)


def test_clips_only_or_labels_only_are_errors(tmp_path):
    labels(tmp_path, {1: LEVELS})
    with pytest.raises(UserError, match="holds no clips with names such as"):
        inventory_of(tmp_path)
    for path in tmp_path.glob("*.csv"):
        path.unlink()
    clips(tmp_path, (1,))
    with pytest.raises(UserError, match="csv"):
        inventory_of(tmp_path)


def test_a_source_with_impossible_labels_is_rejected_with_the_reason(tmp_path):
    labels(tmp_path, {1: LEVELS, 2: (30, 24, 35)})
    clips(tmp_path, (1, 2))
    assert [str(reject) for reject in inventory_of(tmp_path).rejects] == [
        "source videoSRC002 (find): impossible labels in 64x48_2nd.csv: JND2 24 below JND1 30"
    ]


def test_a_group_is_a_film_footage_or_a_source(tmp_path):
    # 31 is the last source of El Fuente, 90 of Chimera; VideoSet has no 221.
    numbers = (1, 31, 32, 90, 221)
    labels(tmp_path, dict.fromkeys(numbers, LEVELS))
    clips(tmp_path, numbers)
    found = [inventory_of(tmp_path), inventory_of(tmp_path, split_by="source")]
    marker = {"simulated_viewers": "a model", "groups": {"videoSRC001": "a", "videoSRC032": "a"}}
    (tmp_path / MARKER_NAME).write_text(json.dumps(marker))
    found += [inventory_of(tmp_path), inventory_of(tmp_path, split_by="source")]
    names = [f"videoSRC{number:03d}" for number in numbers]
    films = ["El Fuente", "El Fuente", "Chimera", "Chimera", "videoSRC221"]
    footage = ["a", "El Fuente", "a", "Chimera", "videoSRC221"]
    # Splits by source keep the groups: intervals are over groups in any case.
    groups = [[source.group_id for source in each.sources] for each in found]
    assert groups == [films, films, footage, footage]
    kept = [list(each.kept_together.values()) for each in found]
    assert kept == [films, names, footage, names]
    assert [each.split_by for each in found] == ["film", "source", "footage", "source"]
    assert len({each.fingerprint for each in found}) == 4
