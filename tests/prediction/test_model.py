"""`laser_dist.load`: models from anywhere, clips of any form."""

import threading
from dataclasses import replace

import av
import numpy as np
import pytest
from onnx_graphs import about, graph_of, mean_color

import laser_dist
import laser_dist.jnd.scale
from laser_dist.errors import UserError
from laser_dist.prediction.clips import FailedClip
from laser_dist.prediction.model import Model

WIDTH, HEIGHT = 96, 64
GRAYS = (40, 60, 90, 120, 150, 200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model whose levels are the mean color, and a clip of grays."""
    folder = tmp_path_factory.mktemp("model")
    content = graph_of(mean_color(0.25), [("levels", [None, 3])], metadata=about())
    (folder / "m.onnx").write_bytes(content)
    with av.open(folder / "clip.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        for gray in frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, "rgb24")))
        container.mux(stream.encode())
    (folder / "song.mp4").write_bytes(b"no video at all")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return laser_dist.load(folder / "m.onnx")


def frames():
    return np.stack([np.full((HEIGHT, WIDTH, 3), gray, np.uint8) for gray in GRAYS])


def test_a_clip_is_a_path_or_its_content(model, folder):
    clip = folder / "clip.mp4"
    by_path = model.predict(clip, num_frames=6)
    assert by_path.clip == str(clip)
    (only,) = by_path.scenes
    assert (only.start_s, only.end_s) == pytest.approx((0, 0.6))
    assert only.levels_per_frame[:, 0] == pytest.approx(np.array(GRAYS) / 4, abs=0.5)
    assert only.timestamps_s == pytest.approx(np.arange(6) / 10)
    for same in (str(clip), clip.read_bytes()):
        other = model.predict(same, num_frames=6)
        np.testing.assert_array_equal(
            other.scenes[0].levels_per_frame, by_path.scenes[0].levels_per_frame
        )
        assert other.scenes[0].timestamps_s == by_path.scenes[0].timestamps_s
    # The centers of two halves of six frames.
    few = model.predict(clip, num_frames=2)
    np.testing.assert_array_equal(
        few.scenes[0].levels_per_frame, by_path.scenes[0].levels_per_frame[[1, 4]]
    )


def test_a_clip_is_an_array_of_any_size_or_an_iterator_of_frames(model):
    array = model.predict(frames(), num_frames=3)
    assert array.scenes[0].levels_per_frame[:, 0] == pytest.approx(np.array([60, 120, 200]) / 4)
    assert array.scenes[0].timestamps_s == ()
    assert array.scenes[0].frames == range(6)
    # Of an iterator, whose length is not known, all frames count.
    many = model.predict(frame for _ in range(10) for frame in frames())
    assert len(many.scenes[0].levels_per_frame) == 60
    assert many.levels[0] == pytest.approx(np.mean(GRAYS) / 4)


@pytest.mark.parametrize(
    ("clip", "error", "message"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), UserError, "The array has no frames"),
        (iter(()), UserError, "The iterator has no frames"),
        (np.zeros((8, 8, 3), np.uint8), ValueError, "N, H, W, 3"),
        (np.zeros((1, 8, 8, 3), np.float32), ValueError, "must be uint8"),
        (np.zeros((2, 0, 0, 3), np.uint8), ValueError, "N, H, W, 3"),
        (None, TypeError, "NoneType"),
        (b"no video", UserError, "8 bytes in memory"),
        ("missing.mp4", UserError, "missing.mp4"),
    ],
)
def test_a_clip_without_frames_is_refused(model, clip, error, message):
    with pytest.raises(error, match=message):
        model.predict(clip)


def test_clips_that_fail_do_not_stop_the_others(model, folder):
    clips = [folder / "song.mp4", folder / "clip.mp4", "missing.mp4", frames()]
    failed, found, missing, array = model.predict_many(clips, num_frames=6)
    assert isinstance(failed, FailedClip)
    assert failed.clip.endswith("song.mp4")
    assert failed.to_dict()["error"] == failed.message
    assert "\n" not in failed.message
    assert missing.message == "missing.mp4 does not exist."
    assert found.levels[0] == pytest.approx(np.mean(GRAYS) / 4, abs=0.5)
    assert array.clip == "The array"
    with pytest.raises(UserError, match="only supports --sur 0.75"):
        next(model.predict_many(clips, sur=0.9))
    others = [np.zeros((1, 8, 8, 3), np.float32), None, frames()]
    floats, nothing, array = model.predict_many(others, num_frames=6)
    assert "must be uint8" in floats.message
    assert "NoneType" in nothing.message
    assert array.levels[0] == pytest.approx(np.mean(GRAYS) / 4, abs=0.5)
    for wrong, message in (
        ({"hdr": "Refuse"}, "hdr must be"),
        ({"interval": 2.0}, "interval must"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(frames(), **wrong)
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            next(model.predict_many([frames()], **wrong))


def test_a_prediction_is_plain_values_and_options_for_ffmpeg(model, folder):
    found = model.predict(folder / "clip.mp4", num_frames=6)
    assert found.ffmpeg_args() == ["-c:v", "libx264", "-qp", "27"]  # 110 / 4, to the finer side
    assert found.ffmpeg_args("jnd3") == found.ffmpeg_args("jnd1")
    document = found.to_dict()
    assert document["schema"] == 1
    assert document["quantizers"] == {"jnd1": 27, "jnd2": 27, "jnd3": 27}
    assert document["model"] == str(folder / "m.onnx")
    assert document["simulated"] is True
    with pytest.raises(UserError, match="does not predict jnd4"):
        found.ffmpeg_args("jnd4")
    with pytest.raises(UserError, match="is for JPEG"):
        replace(found, scale=laser_dist.jnd.scale.QF).ffmpeg_args()


def test_a_long_clip_has_levels_for_each_scene(model, tmp_path):
    """Nine seconds of one gray, then two of a darker one: the darker one is the strictest scene."""
    path = tmp_path / "long.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        for gray in [160] * 45 + [80] * 10:
            picture = np.full((HEIGHT, WIDTH, 3), gray, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    shares = []
    found = model.predict(path, num_frames=3, progress=shares.append)
    assert [(each.start_s, each.end_s) for each in found.scenes] == [(0, 9), (9, 11)]
    assert [each.frames for each in found.scenes] == [range(45), range(45, 55)]
    assert [each.levels[0] for each in found.scenes] == pytest.approx([40, 20], abs=0.5)
    # Centers of thirds of 9 s and of halves of 2 s, at five frames per second.
    assert found.scenes[0].timestamps_s == pytest.approx((1.4, 4.4, 7.4))
    assert found.scenes[1].timestamps_s == pytest.approx((9.4, 10.4))
    assert found.quantizers["jnd1"] == 20
    document = found.to_dict()
    assert [each["quantizers"]["jnd1"] for each in document["scenes"]] == [40, 20]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    # The same ten seconds are one scene, unless scenes are asked for.
    with av.open(path) as source, av.open(tmp_path / "short.mp4", "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size and packet.pts * packet.time_base < 10:
                packet.stream = stream
                container.mux(packet)
    short = tmp_path / "short.mp4"
    assert len(model.predict(short).scenes) == 1
    assert [each.start_s for each in model.predict(short, scenes=True).scenes] == [0, 9]


@pytest.mark.parametrize("scale", [laser_dist.jnd.scale.QP, laser_dist.jnd.scale.QF])
def test_scenes_of_nine_tenths_of_the_time_allow_coarser_quantizers(model, folder, scale):
    """Of scenes of 1 s and 9 s the short one may be too coarse; of 2 s and 8 s, none may."""
    clip = model.predict(folder / "clip.mp4")
    strict, loose = (20, 30) if scale.higher_is_worse else (90, 80)

    def scene(start, end, level):
        levels = np.full(3, level, np.float32)
        times = {"start_s": start, "end_s": end}
        return replace(clip.scenes[0], **times, levels=levels, levels_at_sur=levels)

    for seconds, expected in ((1, loose), (2, strict)):
        scenes = (scene(0, seconds, strict), scene(seconds, 10, loose))
        joined = replace(clip, scenes=scenes, scale=scale)
        assert joined.quantizers_p10["jnd1"] == expected
        assert joined.quantizers["jnd1"] == strict


def test_threads_share_a_model(model):
    clips = [np.full((1, 8, 16, 3), gray, np.uint8) for gray in range(0, 200, 10)]
    found = {}

    def predict(index):
        found[index] = [model.predict(clips[index]).levels[0] for _ in range(20)]

    threads = [threading.Thread(target=predict, args=(index,)) for index in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {index: [pytest.approx(2.5 * index)] * 20 for index in range(len(clips))}


def test_a_model_in_a_bucket_is_loaded(model, folder, s3):
    s3.upload(folder, "models")
    loaded = laser_dist.load(s3.url("models/m.onnx"))
    assert isinstance(loaded, Model)
    expected = model.predict(frames()).levels
    np.testing.assert_array_equal(loaded.predict(frames()).levels, expected)
    with pytest.raises(UserError, match=r"There is no .*other\.onnx"):
        laser_dist.load(s3.url("models/other.onnx"))


def test_a_model_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="none.onnx does not exist"):
        laser_dist.load(tmp_path / "none.onnx")


def test_a_clip_in_hdr_is_refused_on_request(model, tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p10le"
        stream.codec_context.color_trc = 16  # SMPTE ST 2084
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frames()[0], "rgb24")))
        container.mux(stream.encode())
    assert "HDR (PQ), tone-mapped to SDR" in model.predict(path).warnings
    with pytest.raises(UserError, match=r"clip\.mp4 is in HDR \(PQ\)"):
        model.predict(path, hdr="refuse")


def test_a_damaged_clip_is_predicted_with_a_warning(model, folder, tmp_path):
    content = bytearray((folder / "clip.mp4").read_bytes())
    with av.open(folder / "clip.mp4") as container:
        entry = container.streams.video[0].index_entries[3]
    content[entry.pos + 6 : entry.pos + entry.size] = bytes(entry.size - 6)
    for scenes in (False, True):
        found = model.predict(bytes(content), scenes=scenes, num_frames=6)
        assert any("damaged frame" in note for note in found.warnings)
        assert 5 <= len(found.scenes[0].timestamps_s) <= 6
