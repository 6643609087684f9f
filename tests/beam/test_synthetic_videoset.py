import json
from dataclasses import replace

import numpy as np
import pytest
from photographs import photographs
from PIL import Image
from synthetic_fakes import TINY, contents
from video_clips import x264_settings

from beam_pipelines.rejects import Reject, read_rejects
from beam_pipelines.runner import local_options
from beam_pipelines.synthetic.footage import Footage, Take, draw_takes
from beam_pipelines.synthetic.pipeline import (
    fingerprint,
    marker_of,
    marker_text,
    synthesize,
)
from beam_pipelines.synthetic.videoset import ClipVersions, VideosetSettings, judge, make_clip
from laser_dist.errors import UserError
from laser_dist.jnd.videoset_labels import read_videoset_labels
from laser_dist.jnd.videoset_layout import FRAME_RATES, parse_clip_name
from laser_dist.simulation.camera import Shot
from laser_dist.video.codec import decode, encode_h264
from laser_dist.video.frames import Clip

pytestmark = [
    pytest.mark.beam,
    # Beam's own use of the packages that it asks for.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
]


LEFT_OUT = Reject(what="file", where="notes.txt", stage="find", why="not a complete image")


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("footage"))


@pytest.fixture(scope="module")
def synthetic(footage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "mini"
    synthesize(footage, TINY, folder, local_options(1), left_out=[LEFT_OUT])
    return folder


def test_take_i_does_not_depend_on_the_number_of_takes(footage):
    few = draw_takes(footage, replace(TINY, num_sources=2))
    assert draw_takes(footage, TINY)[:2] == few
    assert draw_takes(footage, replace(TINY, seed=1))[:2] != few
    assert [take.footage.group_id for take in draw_takes(footage, TINY)] == [
        "photo0", "photo1", "photo2", "photo0",
    ]  # fmt: skip


def test_the_dataset_has_the_layout_of_videoset(synthetic):
    names = [parse_clip_name(path.name) for path in synthetic.rglob("*.264")]
    expected = {(source, qp) for source in (1, 2, 3, 4) for qp in (0, *TINY.qps)}
    assert {(name.source_index, name.qp) for name in names} == expected
    table = read_videoset_labels(synthetic, "64x48")
    assert [source.source_id[-1] for source in table.sources] == ["1", "2", "3", "4"]
    assert table.repairs == ()
    assert read_rejects(synthetic / "rejects.parquet") == ((LEFT_OUT,), 4)


def test_each_clip_has_the_content_that_its_name_states(synthetic, footage):
    for take in draw_takes(footage, TINY)[:2]:
        reference = make_clip(take, TINY)
        (folder,) = synthetic.glob(f"videoSRC{take.source_index:03d}_*")
        lossless = decode((folder / f"{folder.name}_qp_00.264").read_bytes(), fps=reference.fps)
        np.testing.assert_array_equal(lossless.y, reference.y)
        stream = (folder / f"{folder.name}_qp_34.264").read_bytes()
        assert x264_settings(stream)["qp"] == "34"
        assert stream == encode_h264(reference, qp=34)


def test_labels_are_the_judgments_of_the_panel(synthetic, footage):
    take = draw_takes(footage, TINY)[1]
    judgments = judge(ClipVersions(make_clip(take, TINY), TINY.masking), take.source_index, TINY)
    levels = read_videoset_labels(synthetic, "64x48").sources[1].levels
    assert [level.samples for level in levels] == [j.samples for j in judgments]
    assert [level.jnd for level in levels] == [j.jnd_qp for j in judgments]
    assert [level.anchor for level in levels] == [j.anchor_qp for j in judgments]


def test_the_marker_describes_the_simulation_and_the_groups(synthetic, footage):
    text = (synthetic / "SIMULATED.json").read_text()
    marker = json.loads(text)
    assert marker == json.loads(json.dumps(marker_of(draw_takes(footage, TINY), TINY)))
    assert marker["simulated"] is True
    assert "simulated viewers" in marker["simulated_viewers"]
    assert marker["settings"]["qps"] == list(TINY.qps)
    assert '"qps": [22, 28, 34, 40]' in text
    assert marker["groups"]["videoSRC004"] == marker["groups"]["videoSRC001"] == "photo0"


def test_strings_of_a_marker_are_not_reformatted():
    marker = {"a": "[\n  1,\n  2\n]", "b": [1, 2], "c": ["x", "y"], "d": []}
    assert json.loads(marker_text(marker)) == marker


def test_two_workers_write_the_same_files(synthetic, footage, tmp_path):
    synthesize(footage, TINY, tmp_path / "again", local_options(2), left_out=[LEFT_OUT])
    assert contents(tmp_path / "again") == contents(synthetic)


def test_the_fingerprint_covers_settings_cuts_and_footage(footage, tmp_path):
    takes = draw_takes(footage, TINY)
    prints = {
        fingerprint(takes, TINY),
        fingerprint(takes[:3], replace(TINY, num_sources=3)),
        fingerprint(takes, replace(TINY, panel=replace(TINY.panel, increment=0.5))),
        fingerprint(draw_takes(footage[:2], TINY), TINY),
    }
    assert len(prints) == 4
    copies = photographs(tmp_path)
    assert fingerprint(draw_takes(copies, TINY), TINY) == fingerprint(takes, TINY)
    Image.new("RGB", (160, 130)).save(copies[0].path)
    assert fingerprint(draw_takes(copies, TINY), TINY) != fingerprint(takes, TINY)


def test_an_interrupted_run_leaves_nothing(footage, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("beam_pipelines.synthetic.pipeline.marker_text", interrupt)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        synthesize(footage, TINY, tmp_path / "mini", local_options(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_footage_that_cannot_be_decoded_is_a_user_error(tmp_path, num_workers):
    path = tmp_path / "broken.264"
    noise = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), np.uint8)
    stream = bytearray(encode_h264(Clip.from_rgb(noise, FRAME_RATES[30]), qp=20))
    last_slice = stream.rfind(b"\0\0\1") + 60  # after its header
    stream[last_slice : last_slice + 20] = b"\x55" * 20
    path.write_bytes(stream)
    damaged = (Footage("broken", path, is_video=True),)
    settings = replace(TINY, num_frames=6, num_sources=2)
    with pytest.raises(
        UserError, match=r"1 of 2 sources .*: source videoSRC00\d from .*broken.264"
    ):
        synthesize(damaged, settings, tmp_path / "mini", local_options(num_workers))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"broken.264", "mini-rejects.parquet"}
    # It stops at the first.
    assert len(read_rejects(tmp_path / "mini-rejects.parquet")[0]) == 1


def test_real_motion_is_cut_from_a_video(tmp_path):
    path = tmp_path / "video.264"
    noise = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), np.uint8)
    path.write_bytes(encode_h264(Clip.from_rgb(noise, FRAME_RATES[30]), qp=20))
    (take,) = draw_takes([Footage("v", path, is_video=True)], replace(TINY, num_sources=1))
    clip = make_clip(take, TINY)
    assert (clip.num_frames, clip.height, clip.width) == (3, 48, 64)
    assert np.any(clip.y[0] != clip.y[1])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_sources": 0}, "Setting num_sources must be 1 to 999, not 0"),
        ({"num_sources": 1000}, "Setting num_sources must be 1 to 999, not 1000"),
        ({"width": 63}, "Setting width must be even, at least 16, not 63"),
        ({"height": 8}, "Setting height must be even, at least 16, not 8"),
        ({"num_frames": 0}, "Setting num_frames must be 1 or more, not 0"),
        ({"seed": -1}, "Setting seed must be 0 or more, not -1"),
        ({"qps": (30,)}, "Setting qps must be two or more"),
        ({"qps": (30, 20)}, "Setting qps must be two or more"),
        ({"qps": (0, 20)}, "Setting qps must be two or more"),
        ({"qps": (20, 52)}, "Setting qps must be two or more"),
    ],
)
def test_invalid_settings_are_rejected(change, text):
    with pytest.raises(UserError, match=text):
        replace(TINY, **change)


def test_the_fingerprint_of_given_settings_stays_the_same(tmp_path):
    # Published results name synthetic datasets by their fingerprint.
    path = tmp_path / "photo.png"
    path.write_bytes(b"\0" * 1000)
    shot = Shot(
        center_x=80.0, center_y=65.0, window_width=100.0, pan_x=1.0, pan_y=-0.5, zoom=1.01,
        shake=0.25, exposure=1.1, metered=True, contrast=0.8, tint=(1.1, 1.0, 0.9), defocus=0.5,
        grain=2.0, mirrored=True, seed=7,
    )  # fmt: skip
    takes = [Take(1, Footage("photo", path, is_video=False), shot)]
    assert fingerprint(takes, VideosetSettings(num_sources=1)) == "08e709ef8dc9de0b"


def test_progress_counts_finished_sources(footage, tmp_path, monkeypatch):
    monkeypatch.setattr("beam_pipelines.runner.POLL_S", 0.001)
    counts = []
    synthesize(footage, TINY, tmp_path / "mini", local_options(1), on_progress=counts.append)
    assert counts == sorted(counts)
    assert set(counts) <= set(range(TINY.num_sources + 1))
    assert len(list((tmp_path / "mini").glob(TINY.last_files))) == TINY.num_sources
