"""A clip that is encoded in segments has the packets that one encode gives it."""

import os
import pickle

import av
import pytest
from test_transcode import ENCODERS, FPS, HEIGHT, WIDTH, packets, pictures, write

from laser_dist.encoding.encoders import EncoderSettings
from laser_dist.encoding.segments import encode_segment, segments_of
from laser_dist.encoding.transcode import transcode
from laser_dist.errors import UserError

NUM_FRAMES = 48
VALUES = [(range(0, 10), 30), (range(10, 22), 24), (range(22, 30), 37), (range(30, 48), 28)]
# B-frames, and groups of pictures that begin neither with scenes nor with segments.
GROUPS = {"options": {"g": "7", "bf": "2", "crf": "6"}}


def both_ways(tmp_path, source, settings, *, seconds=0.35, suffix=".mp4"):
    """Return the packets of a file encoded in one go, and those of one joined of segments."""
    whole, joined = (tmp_path / f"{name}{suffix}" for name in ("whole", "joined"))
    segments = segments_of(source, VALUES, seconds)
    # As a runner passes them on.
    encoded = [
        encode_segment(source, settings, pickle.loads(pickle.dumps(each))) for each in segments
    ]
    plain = transcode(source, whole, settings, VALUES)
    result = transcode(source, joined, settings, VALUES, segments=encoded)
    assert result.num_frames == plain.num_frames
    assert result.video_bytes == plain.video_bytes
    return whole, joined, len(segments)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_joined_file_is_the_one_of_a_single_encode(tmp_path, encoder, suffix):
    source = write(tmp_path / "s.mp4", pictures(NUM_FRAMES), with_sound=True, **GROUPS)
    whole, joined, count = both_ways(tmp_path, source, ENCODERS[encoder], suffix=suffix)
    assert count == 3  # the third scene is shorter than a segment
    assert packets(joined, "video") == packets(whole, "video")
    assert times(joined) == times(whole)
    assert packets(joined, "audio") == packets(source, "audio")


def times(path):
    with av.open(path) as container:
        found = [
            (packet.pts, packet.dts, packet.is_keyframe)
            for packet in container.demux(video=0)
            if packet.size
        ]
    assert len(found) == NUM_FRAMES
    return found


@pytest.mark.parametrize("codec", ["libx265", "mpeg4", "libvpx-vp9"])
def test_segments_begin_within_groups_of_other_codecs(tmp_path, codec):
    source = tmp_path / "s.mkv"
    with av.open(source, "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"g": "9"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in pictures(NUM_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    whole, joined, count = both_ways(tmp_path, source, EncoderSettings())
    assert count == 3
    assert packets(joined, "video") == packets(whole, "video")


def test_frames_at_uneven_times_are_in_the_right_segment(tmp_path):
    uneven = [index * 40 + 13 * (index % 3) for index in range(NUM_FRAMES)]
    source = write(tmp_path / "s.mp4", pictures(NUM_FRAMES), times=uneven, **GROUPS)
    whole, joined, _ = both_ways(tmp_path, source, EncoderSettings())
    assert times(joined) == times(whole)
    assert packets(joined, "video") == packets(whole, "video")


def test_what_cannot_be_divided_is_one_segment(tmp_path):
    frames = pictures(NUM_FRAMES)
    mp4 = write(tmp_path / "s.mp4", frames)
    raw = write(tmp_path / "s.264", frames)  # without times
    interlaced = write(tmp_path / "i.mkv", frames, options={"x264-params": "tff=1"})
    assert [len(segments_of(each, VALUES, 0.1)) for each in (mp4, raw, interlaced)] == [4, 1, 1]
    whole, joined, _ = both_ways(tmp_path, interlaced, EncoderSettings())
    assert packets(joined, "video") == packets(whole, "video")


def test_an_option_that_the_encoder_does_not_know_is_refused_in_a_segment(tmp_path):
    source = write(tmp_path / "s.mp4", pictures(NUM_FRAMES))
    settings = EncoderSettings(options={"nonsense": "1"})
    with pytest.raises(UserError, match="x264 refuses an option"):
        encode_segment(source, settings, segments_of(source, VALUES, 0.35)[1])


def test_segments_of_other_settings_do_not_join(tmp_path):
    source = write(tmp_path / "s.mp4", pictures(NUM_FRAMES))
    segments = segments_of(source, VALUES, 0.35)
    other = EncoderSettings(preset="veryfast")
    encoded = [encode_segment(source, other, each) for each in segments]
    with pytest.raises(UserError, match="x264 writes other headers"):
        transcode(source, tmp_path / "out.mp4", EncoderSettings(), VALUES, segments=encoded)


def test_a_lost_frame_at_the_end_of_a_segment_is_in_no_segment_twice(tmp_path):
    # Key frames only: the loss of one damages no other.
    options = {"g": "1", "crf": "6"}
    source = write(tmp_path / "s.mp4", pictures(NUM_FRAMES), options=options)
    with av.open(source) as container:
        lost = [packet for packet in container.demux(video=0) if packet.size][21]
    content = source.read_bytes()
    start = content.index(bytes(lost))
    source.write_bytes(content[: start + 4] + bytes(lost.size - 4) + content[start + lost.size :])
    segments = segments_of(source, VALUES, 0.35)
    assert segments[1].values[0][0].start == 10
    encoded = [encode_segment(source, EncoderSettings(), each) for each in segments]
    shown = [packet.pts for each in encoded for packet in each.packets]
    assert len(set(shown)) == len(shown) >= NUM_FRAMES - 1


def test_an_option_value_that_fails_names_the_encoder(tmp_path):
    source = write(tmp_path / "s.mp4", pictures(NUM_FRAMES))
    settings = EncoderSettings(codec="svtav1", options={"tile-rows": "99"})
    with pytest.raises(UserError, match="svtav1"):
        encode_segment(source, settings, segments_of(source, VALUES, 0.35)[1])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoding_leaves_the_scheduling_of_the_process_as_it_was(tmp_path, encoder):
    source = write(tmp_path / "s.mp4", pictures(NUM_FRAMES))
    before = os.sched_getscheduler(0)
    transcode(source, tmp_path / "t.mp4", ENCODERS[encoder], VALUES)
    encode_segment(source, ENCODERS[encoder], segments_of(source, VALUES, 0.35)[0])
    assert os.sched_getscheduler(0) == before == os.SCHED_OTHER
