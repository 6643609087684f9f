"""Scenes: where clips cut, which the test knows because it cuts them."""

from fractions import Fraction

import av
import numpy as np
import pytest

from laser_dist.video.sampling import sample_scenes
from laser_dist.video.scenes import LONGEST_S, SHORTEST_S, Scene, find_scenes, scenes_between

FPS = 10
WIDTH, HEIGHT = 96, 64


def shot(rng, num_frames):
    """Return frames of a texture that moves by two pixels per frame."""
    coarse = rng.integers(0, 256, (HEIGHT // 8, (WIDTH + 2 * num_frames) // 8 + 1))
    texture = np.kron(coarse, np.ones((8, 8))).astype(np.uint8)
    return [texture[:, 2 * index : 2 * index + WIDTH] for index in range(num_frames)]


def write(path, frames, *, times=None, size=(WIDTH, HEIGHT), codec="libx264"):
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index, gray in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.repeat(gray[..., None], 3, axis=2), "rgb24")
            frame.pts = times[index] if times else index * 1000 // FPS
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def seconds(scenes):
    """Return start and end of each scene, rounded to milliseconds."""
    return [(round(float(each.start), 3), round(float(each.end), 3)) for each in scenes]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_scenes_start_where_the_clip_cuts(tmp_path, suffix):
    rng = np.random.default_rng(0)
    frames = [frame for length in (20, 35, 15) for frame in shot(rng, length)]
    path = write(tmp_path / f"clip.{suffix}", frames)
    for source in (path, path.read_bytes()):
        assert seconds(find_scenes(source)) == [(0, 2), (2, 5.5), (5.5, 7)]


def test_scenes_of_a_variable_frame_rate_start_at_the_time_of_a_frame(tmp_path):
    rng = np.random.default_rng(1)
    frames = shot(rng, 20) + shot(rng, 10)
    times = [*range(0, 2000, 100), *range(2000, 5000, 300)]
    path = write(tmp_path / "clip.mkv", frames, times=times)
    start, end = seconds(find_scenes(path))
    assert start == pytest.approx((0, 2), abs=0.001)
    assert end[0] == pytest.approx(2, abs=0.001)


def test_a_flash_or_a_pan_is_no_scene(tmp_path):
    rng = np.random.default_rng(2)
    frames = shot(rng, 40)
    frames[20] = np.full((HEIGHT, WIDTH), 255, np.uint8)
    assert seconds(find_scenes(write(tmp_path / "clip.mp4", frames))) in (
        [(0, 4)],
        [(0, 2), (2, 4)],  # the cut to the flash counts, the one from it does not
    )
    del frames[20]
    assert seconds(find_scenes(write(tmp_path / "pan.mp4", frames))) == [(0, 3.9)]


def test_frames_of_another_size_in_the_middle_of_a_stream_are_taken(tmp_path):
    rng = np.random.default_rng(3)
    parts = []
    for index, scale in enumerate((1, 2)):
        frames = [np.kron(each, np.ones((scale, scale), np.uint8)) for each in shot(rng, 40)]
        path = tmp_path / f"{index}.h264"
        parts.append(write(path, frames, size=(WIDTH * scale, HEIGHT * scale)).read_bytes())
    joined = tmp_path / "joined.h264"
    joined.write_bytes(b"".join(parts))
    # FFmpeg assumes 25 frames per second for a raw stream, or reads the rate from its headers.
    (_, first), (second, _) = seconds(find_scenes(joined))
    assert first == second > 0


def at(frame):
    return Fraction(frame, FPS)


def test_long_scenes_are_divided_and_short_ones_belong_to_the_one_before():
    times = [at(index) for index in range(400)]
    # Cuts at 2 s, 2.5 s (too soon), 27 s, and 39.5 s (too near the end).
    cuts = [at(20), at(25), at(270), at(395)]
    scenes = scenes_between(cuts, times, at(400))
    # 25 s are three parts, and 13 s two; each starts with a frame.
    assert seconds(scenes) == [
        (0, 2), (2, 10.4), (10.4, 18.7), (18.7, 27), (27, 33.5), (33.5, 40),
    ]  # fmt: skip
    frames = [(each.first_frame, each.end_frame) for each in scenes]
    assert frames == [(0, 20), (20, 104), (104, 187), (187, 270), (270, 335), (335, 400)]
    assert all(SHORTEST_S <= each.end - each.start <= LONGEST_S for each in scenes)


def test_a_scene_of_one_frame_is_not_divided():
    """A frame that is shown for a minute cannot be divided."""
    (scene,) = scenes_between([], [Fraction(0)], Fraction(60))
    assert scene == Scene(Fraction(0), Fraction(60), 0, 1)


def test_frames_are_sampled_from_each_scene_as_from_the_scene_only(tmp_path):
    """The reference: frames of a complete decode at the centers of equal parts of each scene.

    Four frames for 5 s are two for the first scene, of 2.4 s, and three for the second, of 3.6 s.
    """
    rng = np.random.default_rng(4)
    path = write(tmp_path / "clip.mp4", shot(rng, 24) + shot(rng, 36))
    with av.open(path) as container:
        decoded = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    scenes = [Scene(at(0), at(24), 0, 24), Scene(at(24), at(60), 24, 60)]
    found = list(sample_scenes(path, scenes, num_frames=4, width=WIDTH, height=HEIGHT))
    assert [scene for scene, _ in found] == scenes
    for (_, samples), indices in zip(found, ([6, 18], [30, 42, 54]), strict=True):
        assert [each.timestamp_s for each in samples] == pytest.approx(np.array(indices) / FPS)
        for sample, index in zip(samples, indices, strict=True):
            difference = sample.rgb[..., 1].astype(int) - decoded[index]
            assert np.abs(difference).mean() < 3
