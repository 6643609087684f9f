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
from laser_dist.prediction.model import FailedClip, Model

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
    by_path = model.predict(clip)
    assert by_path.clip == str(clip)
    assert by_path.levels_per_frame[:, 0] == pytest.approx(np.array(GRAYS) / 4, abs=0.5)
    assert by_path.timestamps_s == pytest.approx(np.arange(6) / 10)
    for same in (str(clip), clip.read_bytes()):
        other = model.predict(same)
        np.testing.assert_array_equal(other.levels_per_frame, by_path.levels_per_frame)
        assert other.timestamps_s == by_path.timestamps_s
    # The centers of two halves of six frames.
    few = model.predict(clip, num_frames=2)
    np.testing.assert_array_equal(few.levels_per_frame, by_path.levels_per_frame[[1, 4]])


def test_a_clip_is_an_array_of_any_size_or_an_iterator_of_frames(model):
    array = model.predict(frames(), num_frames=3)
    assert array.levels_per_frame[:, 0] == pytest.approx(np.array([60, 120, 200]) / 4)
    assert array.timestamps_s == ()
    # Of an iterator, whose length is not known, all frames count.
    many = model.predict(frame for _ in range(10) for frame in frames())
    assert len(many.levels_per_frame) == 60
    assert many.levels[0] == pytest.approx(np.mean(GRAYS) / 4)


@pytest.mark.parametrize(
    ("clip", "error", "message"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), UserError, "The array has no frames"),
        (iter(()), UserError, "The iterator has no frames"),
        (np.zeros((8, 8, 3), np.uint8), ValueError, "N, H, W, 3"),
        (np.zeros((1, 8, 8, 3), np.float32), ValueError, "must be uint8"),
        (b"no video", UserError, "8 bytes in memory"),
        ("missing.mp4", UserError, "missing.mp4"),
    ],
)
def test_a_clip_without_frames_is_refused(model, clip, error, message):
    with pytest.raises(error, match=message):
        model.predict(clip)


def test_clips_that_fail_do_not_stop_the_others(model, folder):
    clips = [folder / "song.mp4", folder / "clip.mp4", "missing.mp4", frames()]
    failed, found, missing, array = model.predict_many(clips)
    assert isinstance(failed, FailedClip)
    assert failed.clip.endswith("song.mp4")
    assert failed.to_dict()["error"] == failed.message
    assert "\n" not in failed.message
    assert missing.message == "missing.mp4 does not exist."
    assert found.levels[0] == pytest.approx(np.mean(GRAYS) / 4, abs=0.5)
    assert array.clip == "The array"
    with pytest.raises(UserError, match="only supports --sur 0.75"):
        next(model.predict_many(clips, sur=0.9))


def test_a_prediction_is_plain_values_and_options_for_ffmpeg(model, folder):
    found = model.predict(folder / "clip.mp4")
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
