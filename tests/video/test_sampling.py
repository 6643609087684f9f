"""Frames picked for a prediction are those of a complete decode; damage is counted."""

import io
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from video_clips import NTSC, moving_clip, muxed

from laser_dist.video.codec import decode, encode_h264
from laser_dist.video.containers import Damage, VideoError
from laser_dist.video.sampling import SampledFrame, sample_frames

pytestmark = pytest.mark.slow


def image_bytes(rgb, kind, **options):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind, **options)
    return file.getvalue()


class Sampled(NamedTuple):
    frames: list[SampledFrame]
    damage: Damage


def sampled(source, num_frames=4, width=16, height=16):
    """Return frames of a clip, and the damage that is concealed."""
    damage = Damage()
    found = sample_frames(source, num_frames=num_frames, width=width, height=height, damage=damage)
    return Sampled(found, damage)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a clip of 8 frames in common containers, by name."""
    clip = moving_clip(8)
    return {
        "annexb": encode_h264(clip, qp=27),
        "mp4": muxed(clip, "mp4"),
        "mp4 for the web": muxed(clip, "mp4", folder=tmp_path_factory.mktemp("web")),
        "matroska": muxed(clip, "matroska"),
        "avi": muxed(clip, "avi", codec="mpeg4"),
    }


def test_groups_without_a_sampled_frame_are_not_decoded(tmp_path):
    path = tmp_path / "clip.mp4"
    content = bytearray(muxed(moving_clip(30, 32, 32), "mp4", g="6", folder=tmp_path))
    with av.open(io.BytesIO(content)) as container:
        # Frames 12 to 17 are the third of five groups; the picks are 7 and 22.
        entries = container.streams.video[0].index_entries
        start, end = entries[12].pos, entries[17].pos + entries[17].size
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    with pytest.raises(VideoError):
        decode(path)
    assert len(sample_frames(path, num_frames=2, width=16, height=16)) == 2


@pytest.mark.parametrize(
    ("codec", "params"),
    [
        ("libx264", {"x264-params": "bframes=1:b-adapt=0:b-pyramid=none:scenecut=0"}),
        ("libx265", {"x265-params": "bframes=1:b-adapt=0:scenecut=0:log-level=none"}),
    ],
)
def test_frames_that_no_sampled_frame_refers_to_are_not_decoded(codec, params, tmp_path):
    path = tmp_path / "clip.mp4"
    content = bytearray(
        muxed(moving_clip(13, 64, 64, fps=Fraction(25)), "mp4", codec=codec, **params)
    )
    with av.open(io.BytesIO(content)) as container:
        # Every other frame is a B frame, to which none refers. The pick is frame 6.
        for packet in container.demux(video=0):
            if packet.size and packet.pts * packet.time_base * 25 in (1, 3, 5):
                half = packet.size // 2  # after the headers
                content[packet.pos + half : packet.pos + packet.size] = bytes(packet.size - half)
    path.write_bytes(content)
    with pytest.raises(VideoError):
        decode(path)
    (found,) = sample_frames(path, num_frames=1, width=16, height=16)
    assert found.timestamp_s * 25 == pytest.approx(6)


@pytest.mark.parametrize("kind", ["annexb", "mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("num_frames", [1, 3, 7])
def test_sampled_frames_are_the_centers_of_equal_intervals(kind, num_frames, tmp_path):
    long = moving_clip(40, 32, 32)
    # Short groups of pictures, so that there is something to skip.
    coded = encode_h264(long, qp=20) if kind == "annexb" else muxed(long, kind, g="6")
    path = tmp_path / "long"
    path.write_bytes(coded)
    samples = sample_frames(path, num_frames=num_frames, width=24, height=16)
    decoded = decode(path)
    for index, sample in enumerate(samples):
        center = int((index + 0.5) * 40 / num_frames)
        assert np.array_equal(sample.rgb, decoded.rgb(center, width=24, height=16))
        assert sample.timestamp_s == float(decoded.timestamps[center])
    assert len(samples) == num_frames


def write_numbered(
    target, times, *, codec="libx264", kind=None, clock=Fraction(1, 1000), levels=None, **options
):
    """Write frames of growing brightness that start at these times, in ticks of the clock."""
    if codec == "libx264":
        options = {"qp": "4", **options}
    with av.open(target, "w", format=kind) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.time_base = stream.codec_context.time_base = clock
        for number, time in enumerate(times):
            level = levels[number] if levels else 20 + 4 * number
            picture = np.full((32, 64, 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = time, clock
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_frames_are_sampled_evenly_over_time_at_a_variable_rate(tmp_path, kind):
    """One frame for 4 s, then eight of 0.5 s: the centers of four quarters of 8 s."""
    path = tmp_path / f"clip.{kind}"
    write_numbered(path, [0, *range(4000, 8000, 500)])
    samples = sample_frames(path, num_frames=4, width=64, height=32)
    # At 1 s and 3 s the first frame is shown.
    assert [each.timestamp_s for each in samples] == pytest.approx([0, 5, 7], abs=0.002)
    expected = [20, 20 + 4 * 3, 20 + 4 * 7]
    assert [each.rgb.mean() for each in samples] == pytest.approx(expected, abs=2)


def test_frames_that_need_a_hidden_key_frame_are_those_of_a_complete_decode(tmp_path):
    """An edit list starts after the first key frame, as phones write it when a clip is trimmed."""
    whole, trimmed = tmp_path / "whole.mp4", tmp_path / "trimmed.mp4"
    write_numbered(whole, range(0, 1200, 40), g="10", bf="0")
    with av.open(whole) as source, av.open(trimmed, "w") as output:
        given = source.streams.video[0]
        stream = output.add_stream_from_template(given)
        for packet in source.demux(given):
            if packet.size:
                # Times below 0 are what an MP4 hides with an edit list.
                packet.pts -= round(Fraction(200, 1000) / packet.time_base)
                packet.dts -= round(Fraction(200, 1000) / packet.time_base)
                packet.stream = stream
                output.mux(packet)
    with av.open(trimmed) as container:
        shown = [(float(frame.time), frame.to_ndarray(format="rgb24").mean())
                 for frame in container.decode(video=0)]  # fmt: skip
    samples = sample_frames(trimmed, num_frames=5, width=64, height=32)
    # Of 25 frames the centers of five intervals are the frames 2, 7, 12, 17 and 22.
    assert len(shown) == 25
    for sample, index in zip(samples, (2, 7, 12, 17, 22), strict=True):
        assert sample.timestamp_s == pytest.approx(shown[index][0] - shown[0][0], abs=0.001)
        assert sample.rgb.mean() == pytest.approx(shown[index][1], abs=1)


def test_a_short_clip_gives_each_frame_once(files, tmp_path):
    path = tmp_path / "clip"
    path.write_bytes(files["mp4"])
    samples = sample_frames(path, num_frames=50, width=16, height=16)
    assert [sample.timestamp_s for sample in samples] == [float(index / NTSC) for index in range(8)]
    path.write_bytes(image_bytes(moving_clip(1).rgb(0), "PNG"))
    (only,) = sample_frames(path, num_frames=8, width=16, height=16)
    assert (only.timestamp_s, only.rgb.shape) == (0.0, (16, 16, 3))
    with pytest.raises(ValueError, match="num_frames"):
        sample_frames(path, num_frames=0, width=16, height=16)


# Key pictures that others refer back over, or from which decoding cannot start; hidden pictures.
STREAMS = (
    ("libx264", {"x264-params": "keyint=12:bframes=3:open-gop=1:b-adapt=0:scenecut=0"}),
    ("libx264", {"x264-params": "keyint=15:bframes=8:b-pyramid=normal:open-gop=1:b-adapt=0"}),
    ("libx264", {"x264-params": "intra-refresh=1:keyint=12:bframes=0:scenecut=0"}),
    ("libx264", {"x264-params": "keyint=10:bframes=0:scenecut=0"}),
    ("libx265", {"x265-params": "log-level=none:keyint=12:bframes=3:open-gop=1:pools=1"}),
    ("mpeg4", {"bf": "2", "g": "12", "q:v": "3"}),
    ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "20", "b": "200k"}),
    ("libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "20", "b": "200k"}),
)


@settings(deadline=None, max_examples=40)
@given(
    stream=st.sampled_from(STREAMS),
    kind=st.sampled_from(["mp4", "matroska"]),
    steps=st.lists(st.sampled_from([20, 40, 100, 330]), min_size=1, max_size=4),
    shift=st.sampled_from([0, -400, 1000]),
    num_frames=st.integers(1, 12),
)
def test_a_pick_is_the_frame_that_a_complete_decode_shows_then(
    stream, kind, steps, shift, num_frames
):
    """At any frame rate, also with times below 0, which MP4 hides by an edit list."""
    codec, options = stream
    times = [shift]
    for number in range(49):
        times.append(times[-1] + steps[number % len(steps)])
    file = io.BytesIO()
    write_numbered(file, times, codec=codec, kind="matroska" if codec == "libvpx" else kind,
                   **options)  # fmt: skip
    with av.open(io.BytesIO(file.getvalue())) as container:
        shown = [(frame.time, frame.to_ndarray(format="rgb24").mean())
                 for frame in container.decode(video=0)]  # fmt: skip
    start = shown[0][0]
    length = (shown[-1][0] - start) * len(shown) / (len(shown) - 1)
    centers = [start + (index + 0.5) * length / num_frames for index in range(num_frames)]
    # The containers' clocks round a time by up to a millisecond, which must not change the frame.
    assume(all(abs(time - c) > 0.0021 for time, _ in shown for c in centers))
    last = [max(i for i, (time, _) in enumerate(shown) if time <= c) for c in centers]
    sample = sampled(file.getvalue(), num_frames, 64, 32)
    assert sample.damage == Damage()
    expected = [shown[index] for index in sorted(set(last))]
    assert [each.timestamp_s for each in sample.frames] == pytest.approx(
        [time - start for time, _ in expected], abs=0.001
    )
    means = [mean for _, mean in expected]
    assert [each.rgb.mean() for each in sample.frames] == pytest.approx(means, abs=1.9)


@pytest.mark.parametrize("kind", ["mpegts", "avi", "flv"])
def test_a_container_without_exact_seeking_gives_all_of_its_frames(kind):
    file = io.BytesIO()
    write_numbered(file, range(0, 2000, 40), kind=kind, codec="flv" if kind == "flv" else "mpeg4")
    with av.open(io.BytesIO(file.getvalue())) as container:
        shown = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    assert len(shown) == 50
    sample = sampled(file.getvalue(), 5, 64, 32)
    assert sample.damage == Damage()
    expected = shown[5::10]  # the centers of five intervals
    assert [each.rgb.mean() for each in sample.frames] == pytest.approx(expected, abs=1.9)


@pytest.mark.parametrize("kind", ["mpegts", "mpeg"])
def test_times_continue_where_joined_files_start_again(kind):
    """Frames of both parts are sampled, at times from 0 to 4 s."""
    parts = [io.BytesIO(), io.BytesIO()]
    codec = "mpeg2video" if kind == "mpeg" else "mpeg4"
    for number, part in enumerate(parts):
        levels = [20 + 2 * (20 * number + picture) for picture in range(50)]
        write_numbered(
            part, range(50), kind=kind, codec=codec, clock=Fraction(1, 25), levels=levels
        )
    joined = b"".join(part.getvalue() for part in parts)
    with av.open(io.BytesIO(joined)) as container:
        levels = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    assert len(levels) == 100
    sample = sampled(joined, 4, 64, 32)
    assert [each.timestamp_s for each in sample.frames] == pytest.approx(
        [0.5, 1.5, 2.5, 3.5], abs=0.05
    )
    expected = [levels[index] for index in (12, 37, 62, 87)]
    assert [each.rgb.mean() for each in sample.frames] == pytest.approx(expected, abs=3)


def test_frames_that_change_size_are_scaled_to_one():
    both = [encode_h264(moving_clip(4, side, side), qp=20) for side in (32, 48)]
    sample = sampled(b"".join(both), 8)
    expected = [each.rgb for content in both for each in sampled(content, 4).frames]
    for each, rgb in zip(sample.frames, expected, strict=True):
        assert np.array_equal(each.rgb, rgb)


@pytest.mark.parametrize("kind", ["mp4 for the web", "matroska", "avi"])
@pytest.mark.parametrize("picture", [2, 5])
def test_a_truncated_file_is_sampled_up_to_its_end(files, kind, picture):
    whole = files[kind]
    with av.open(io.BytesIO(whole)) as container:
        packets = sorted((each.pos, each.size) for each in container.demux(video=0) if each.size)
    start, size = packets[picture]
    cut = whole[: start + size // 2]
    complete, sample = sampled(whole, 8), sampled(cut, 8)
    assert not complete.damage.is_truncated
    assert sample.damage.is_truncated
    assert 1 <= len(sample.frames) <= 8
    # The first frame is complete.
    assert np.array_equal(sample.frames[0].rgb, complete.frames[0].rgb)
    with pytest.raises(VideoError):
        decode(cut)


def test_a_file_of_which_nothing_decodes_is_refused(files):
    content = bytearray(files["mp4 for the web"])
    media = content.index(b"mdat") + 4
    content[media:] = bytes(len(content) - media)
    with pytest.raises(VideoError, match="its picture is damaged"):
        sampled(bytes(content))


def test_damage_inside_a_file_is_counted_and_the_rest_is_sampled():
    content = bytearray(muxed(moving_clip(30), "mp4", g="6", bf="0"))
    with av.open(io.BytesIO(content)) as container:
        entries = container.streams.video[0].index_entries
        start, size = entries[14].pos, entries[14].size
    content[start + 8 : start + size] = bytes(size - 8)
    with pytest.raises(VideoError):
        decode(bytes(content))
    sample = sampled(bytes(content), 30)
    assert sample.damage.num_concealed + sample.damage.num_lost >= 1
    assert not sample.damage.is_truncated
    assert 29 <= len(sample.frames) <= 30
    intact = sampled(muxed(moving_clip(30), "mp4", g="6", bf="0"), 30)
    # The damage is in the third of five groups: all others are as they were.
    by_time = {each.timestamp_s: each.rgb for each in sample.frames}
    for each in (*intact.frames[:12], *intact.frames[18:]):
        assert np.array_equal(by_time[each.timestamp_s], each.rgb)


def test_a_raw_stream_that_lost_its_first_key_picture_is_sampled_from_the_next_one():
    content = encode_h264(moving_clip(90, 32, 32), qp=30)  # a key picture every 60 frames
    # ITU-T H.264, table 7-1: units of type 5 are slices of a key picture.
    units = content.split(b"\0\0\1")
    first = next(i for i, unit in enumerate(units) if unit and unit[0] & 31 == 5)
    sample = sampled(b"\0\0\1".join(units[:first] + units[first + 1 :]), 3)
    assert len(sample.frames) == 3
    # The 30 frames from the second key picture on are there.
    assert sample.damage == Damage(num_lost=59)


def test_a_broken_message_between_pictures_is_no_obstacle():
    content = encode_h264(moving_clip(6), qp=27)
    # The size of x264's message with its settings (SEI, type 5) points past its end.
    broken = content.replace(b"\x06\x05", b"\x06\x05\xff\xff\xff", 1)
    assert broken != content
    found, intact = sampled(broken, 6), sampled(content, 6)
    for ours, theirs in zip(found.frames, intact.frames, strict=True):
        assert np.array_equal(ours.rgb, theirs.rgb)


def test_repeated_frames_of_an_avi_are_no_damage():
    """They have no packet, but the number of frames in the header counts them."""
    file = io.BytesIO()
    times = [number for number in range(40) if number % 7 != 3]
    write_numbered(file, times, codec="mpeg4", kind="avi", clock=Fraction(1, 25), bf="0")
    with av.open(io.BytesIO(file.getvalue())) as container:
        assert container.streams.video[0].frames == 40
    assert decode(file.getvalue()).num_frames == len(times)
    assert sampled(file.getvalue()).damage == Damage()


def test_what_a_camera_appends_to_a_photograph_is_not_sampled(files):
    rgb = moving_clip(1).rgb(0)
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    photograph, other = image_bytes(rgb, "JPEG", exif=exif), image_bytes(255 - rgb, "JPEG")
    alone = sampled(photograph)
    for appended in (other, files["mp4"], b"\0" * 99 + other):
        sample = sampled(photograph + appended)
        assert len(sample.frames) == 1
        assert sample.damage == Damage()
        assert np.array_equal(sample.frames[0].rgb, alone.frames[0].rgb)
    assert sampled(photograph[:-40]).damage.is_truncated
