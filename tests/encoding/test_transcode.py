"""Encoded files: the frames, times, quantizers and other streams that they must have."""

import re
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest

from laser_dist.encoding.encoders import EncoderSettings
from laser_dist.encoding.transcode import transcode
from laser_dist.encoding.verify import verify
from laser_dist.errors import UserError
from laser_dist.video.coded_qps import coded_qps

WIDTH, HEIGHT, FPS = 96, 64, 25
ENCODERS = {
    "videoset": EncoderSettings(),
    "x264": EncoderSettings(codec="x264", preset="veryfast"),
    "x265": EncoderSettings(codec="x265", preset="ultrafast"),
    "svtav1": EncoderSettings(codec="svtav1", preset="12"),
}


def pictures(num_frames, *, width=WIDTH, height=HEIGHT):
    """Return frames of a texture that moves, another one in the second half."""
    found = []
    for seed, count in ((1, num_frames // 2), (2, num_frames - num_frames // 2)):
        coarse = np.random.default_rng(seed).integers(40, 200, (height // 4, width // 4 + count))
        texture = np.kron(coarse, np.ones((4, 4))).astype(np.uint8)
        found += [texture[:height, at : at + width] for at in range(count)]
    return [np.repeat(each[..., None], 3, axis=2) for each in found]


def write(path, frames, *, times=None, pix_fmt="yuv420p", with_sound=False, **settings):
    """Write frames, at times in ms, with a second of sound."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "6"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        sound = container.add_stream("aac", rate=48000) if with_sound else None
        if sound:
            sound.metadata["language"] = "deu"
            container.metadata["title"] = "Test"
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts = times[index] if times else index * 1000 // FPS
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for index in range(40 if sound else 0):
            tone = np.sin(np.arange(1024) / 20 + index).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = 48000, index * 1024, Fraction(1, 48000)
            container.mux(sound.encode(frame))
        if sound:
            container.mux(sound.encode())
    return path


def decoded(path):
    with av.open(path) as container:
        found = list(container.decode(video=0))
        return [float(each.time) for each in found], found


def packets(path, kind):
    with av.open(path) as container:
        stream = getattr(container.streams, kind)[0]
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def halves(first, second, num_frames=40):
    return [(range(num_frames // 2), first), (range(num_frames // 2, num_frames), second)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_all_frames_sound_and_metadata_are_there(tmp_path, encoder, suffix):
    source = write(tmp_path / "a.mp4", pictures(40), with_sound=True)
    output = tmp_path / f"b{suffix}"
    seen = []
    result = transcode(source, output, ENCODERS[encoder], halves(22.0, 36.0), progress=seen.append)
    times, frames = decoded(output)
    assert result.num_frames == len(frames) == 40
    # Sound starts before the video, by the encoder's delay, and Matroska moves both.
    assert np.array(times) - times[0] == pytest.approx(np.arange(40) / FPS, abs=0.0011)
    assert packets(output, "audio") == packets(source, "audio")
    with av.open(output) as container:
        assert container.metadata["title"] == "Test"
        assert container.streams.audio[0].metadata["language"] == "deu"
        keys = [
            packet.pts * packet.time_base
            for packet in container.demux(video=0)
            if packet.is_keyframe
        ]
    # The second scene starts with a key frame.
    assert [float(key - keys[0]) for key in keys] == pytest.approx([0, 20 / FPS], abs=0.0011)
    assert seen == sorted(seen)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_each_scene_has_its_quantizer(tmp_path, encoder):
    """The scene with the finer quantizer is nearer to the source, whichever it is."""
    source = write(tmp_path / "a.mp4", pictures(40))
    for values in (halves(16.0, 40.0), halves(40.0, 16.0)):
        output = tmp_path / "b.mp4"
        transcode(source, output, ENCODERS[encoder], values)
        first, second = verify(source, output, values).scenes
        fine, coarse = (first, second) if values[0][1] == 16 else (second, first)
        assert fine.psnr_db > coarse.psnr_db + 3


def test_all_frames_of_a_scene_have_its_qp(tmp_path):
    """Key frames also, which zones of x264 would give the QP of the scene before."""
    source, output = write(tmp_path / "a.mp4", pictures(160)), tmp_path / "b.mp4"
    transcode(source, output, ENCODERS["videoset"], halves(24.0, 33.0, 160))
    found = np.array(list(coded_qps(output)))
    assert found[:80] == pytest.approx(24, abs=0.01)
    assert found[80:] == pytest.approx(33, abs=0.01)


def test_the_comparison_is_that_of_the_decoded_luma(tmp_path):
    source, output = write(tmp_path / "a.mp4", pictures(40)), tmp_path / "b.mp4"
    values = halves(24.0, 40.0)
    transcode(source, output, ENCODERS["videoset"], values)
    found = verify(source, output, values)
    luma = [
        np.stack([each.to_ndarray()[:HEIGHT].astype(float) for each in decoded(path)[1]])
        for path in (source, output)
    ]
    errors = ((luma[0] - luma[1]) ** 2).mean(axis=(1, 2))
    for part, quality in ((slice(0, 40), found.total), (slice(20, 40), found.scenes[1])):
        expected = 10 * np.log10(255**2 / errors[part].mean())
        assert quality.psnr_db == pytest.approx(expected, abs=0.01)
    assert found.num_frames == 40


def test_a_file_with_fewer_frames_does_not_pass(tmp_path):
    source = write(tmp_path / "a.mp4", pictures(40))
    short = write(tmp_path / "b.mp4", pictures(40)[:39])
    with pytest.raises(UserError, match="fewer frames"):
        verify(source, short, [(range(40), 20.0)])
    with pytest.raises(UserError, match="more frames"):
        verify(short, source, [(range(39), 20.0)])


def test_times_of_a_variable_frame_rate_are_kept(tmp_path):
    times = [0, 40, 80, 500, 540, 1100, 1200, 1300, 1340, 2000]
    source = write(tmp_path / "a.mkv", pictures(10), times=times)
    for encoder in ENCODERS.values():
        transcode(source, tmp_path / "b.mkv", encoder, [(range(10), 24.0)])
        assert decoded(tmp_path / "b.mkv")[0] == pytest.approx(np.array(times) / 1000, abs=0.0011)


def test_ten_bits_and_the_color_description_are_kept(tmp_path):
    source = write(
        tmp_path / "a.mp4", pictures(10), pix_fmt="yuv420p10le",
        color_primaries=9, colorspace=9, color_trc=14, color_range=1,
    )  # fmt: skip
    eight = write(tmp_path / "eight.mp4", pictures(10))
    values = [(range(10), 30.0)]
    for encoder in ENCODERS.values():
        transcode(source, tmp_path / "b.mp4", encoder, values)
        frame = decoded(tmp_path / "b.mp4")[1][0]
        assert frame.format.name == "yuv420p10le"
        assert (frame.color_primaries, frame.colorspace, frame.color_trc) == (9, 9, 14)
    # A QP has the same step of the range in 8 and in 10 bits; 12 QP off would be 12 dB.
    found = []
    for each in (source, eight):
        transcode(each, tmp_path / "c.mp4", ENCODERS["videoset"], values)
        found.append(verify(each, tmp_path / "c.mp4", values).total.psnr_db)
    assert found[0] == pytest.approx(found[1], abs=2)


def test_a_turned_video_is_upright_and_an_odd_size_is_cropped(tmp_path):
    from PIL import Image

    source = write(tmp_path / "a.mp4", pictures(4))
    turned = tmp_path / "turned.mov"
    content = source.read_bytes()
    # The display matrix of the track header: 90 degrees clockwise.
    identity = b"".join(
        each.to_bytes(4, "big") for each in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    )
    quarter = b"".join(
        each.to_bytes(4, "big", signed=True)
        for each in (0, 65536, 0, -65536, 0, 0, HEIGHT << 16, 0, 1 << 30)
    )
    track = content.index(b"tkhd")
    at = content.index(identity, track)
    turned.write_bytes(content[:at] + quarter + content[at + len(quarter) :])
    transcode(turned, tmp_path / "b.mp4", ENCODERS["videoset"], [(range(4), 4.0)])
    before, after = (decoded(path)[1][0] for path in (source, tmp_path / "b.mp4"))
    assert (after.width, after.height, after.rotation) == (HEIGHT, WIDTH, 0)
    expected = Image.fromarray(before.to_ndarray(format="gray")).transpose(
        Image.Transpose.ROTATE_270
    )
    difference = np.asarray(expected).astype(int) - after.to_ndarray(format="gray")
    assert np.abs(difference).mean() < 2
    cut = [each[:67, :99] for each in pictures(4, width=100, height=68)]
    odd = write(tmp_path / "odd.mp4", cut, pix_fmt="yuv444p")
    transcode(odd, tmp_path / "c.mp4", ENCODERS["videoset"], [(range(4), 20.0)])
    frame = decoded(tmp_path / "c.mp4")[1][0]
    assert (frame.width, frame.height, frame.format.name) == (98, 66, "yuv420p")


CHAPTERS = """;FFMETADATA1
title=Test
[CHAPTER]
TIMEBASE=1/1000
START=0
END=700
title=Calm
[CHAPTER]
TIMEBASE=1/1000
START=700
END=1600
title=Storm
"""
SUBTITLES = """1
00:00:00,200 --> 00:00:01,100
A line.
"""


def streams_of(path):
    """Return the bytes of the packets of each stream with its type, and the chapters."""
    with av.open(path) as container:
        kinds = [stream.type for stream in container.streams]
        found = [[] for _ in kinds]
        for packet in container.demux():
            if packet.size and packet.pts is not None:
                found[packet.stream.index].append(
                    (float(packet.pts * packet.time_base), bytes(packet))
                )
        chapters = [
            (float(each["start"] * each["time_base"]), each["metadata"]["title"])
            for each in container.chapters()
        ]
    return list(zip(kinds, found, strict=True)), chapters


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_subtitles_and_chapters_are_kept_and_other_pictures_are_named(tmp_path, ffmpeg, suffix):
    """A second video and, in MP4, a cover picture are not encoded, and not lost without a word."""
    video = write(tmp_path / "v.mp4", pictures(40), with_sound=True)
    (tmp_path / "c.txt").write_text(CHAPTERS)
    (tmp_path / "s.srt").write_text(SUBTITLES)
    source = tmp_path / f"source{suffix}"
    codec = "srt" if suffix == ".mkv" else "mov_text"
    words = [ffmpeg, "-i", video, "-i", "s.srt", "-i", "c.txt", "-i", video]
    words += ["-f", "lavfi", "-i", "color=red:size=64x64:d=0.04"]
    words += ["-map", "0", "-map", "1", "-map", "3:v", "-map_metadata", "2", "-map_chapters", "2"]
    words += ["-c:v", "copy", "-c:a", "copy", "-c:s", codec, "-disposition:v:1", "0"]
    if suffix == ".mp4":
        words += ["-map", "4:v", "-c:v:2", "png", "-disposition:v:2", "attached_pic"]
    subprocess.run([*words, source], cwd=tmp_path, check=True, capture_output=True)
    output = tmp_path / f"output{suffix}"
    result = transcode(source, output, ENCODERS["x264"], halves(20, 30))
    named = [re.sub(r" \(?stream \d+\)?$", "", each) for each in result.left_out]
    assert named == (["video"] if suffix == ".mkv" else ["video", "cover picture"])
    before, chapters = streams_of(source)
    after, kept = streams_of(output)
    assert kept == [(pytest.approx(start), title) for start, title in chapters]
    assert [title for _, title in kept] == ["Calm", "Storm"]
    for kind in ("audio", "subtitle"):
        expected, found = (dict(streams)[kind] for streams in (before, after))
        assert [content for _, content in found] == [content for _, content in expected]
        times = [[time for time, _ in each] for each in (found, expected)]
        assert times[0] == pytest.approx(times[1], abs=0.03)


def test_sound_of_a_file_that_ends_in_its_middle_is_copied_up_to_there(tmp_path):
    source = write(tmp_path / "a.mkv", pictures(40), with_sound=True)
    content = source.read_bytes()
    source.write_bytes(content[: len(content) * 2 // 3])
    result = transcode(source, tmp_path / "b.mp4", ENCODERS["x264"], halves(20, 30))
    assert 10 < result.num_frames < 40
    copied, expected = packets(tmp_path / "b.mp4", "audio"), packets(source, "audio")
    assert copied[:-1] == expected[: len(copied) - 1]
    assert len(copied) >= len(expected) - 1
    verified = verify(source, tmp_path / "b.mp4", halves(20, 30))
    assert verified.num_frames == result.num_frames


@pytest.mark.parametrize("codec", ["aac", "mp2"])
def test_sound_of_joined_transport_streams_is_copied_in_full(tmp_path, ffmpeg, codec):
    video = write(tmp_path / "v.mp4", pictures(40))
    words = [
        ffmpeg,
        "-i",
        video,
        "-f",
        "lavfi",
        "-i",
        "sine=frequency=500:duration=1.6",
        "-ac",
        "2",
    ]
    words += ["-ac", "2", "-c:v", "copy", "-c:a", codec, tmp_path / "part.ts"]
    subprocess.run(words, check=True, capture_output=True)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(2 * (tmp_path / "part.ts").read_bytes())
    result = transcode(joined, tmp_path / "b.mp4", ENCODERS["x264"], [(range(80), 20.0)])
    assert (result.num_frames, result.left_out) == (80, ())
    with av.open(tmp_path / "b.mp4") as container:
        seconds = sum(each.samples / each.sample_rate for each in container.decode(audio=0))
    assert seconds == pytest.approx(3.2, abs=0.1)
    assert verify(joined, tmp_path / "b.mp4", [(range(80), 20.0)]).num_frames == 80


def test_a_scene_without_frames_has_no_quality(tmp_path):
    source = write(tmp_path / "a.mp4", pictures(20))
    values = [(range(20), 20.0), (range(20, 30), 30.0)]
    transcode(source, tmp_path / "b.mp4", ENCODERS["x264"], values)
    first, second = verify(source, tmp_path / "b.mp4", values).scenes
    assert first.psnr_db > 20
    assert second is None


def test_a_frame_at_another_time_does_not_pass(tmp_path):
    times = [index * 40 for index in range(20)]
    source = write(tmp_path / "a.mp4", pictures(20), times=times)
    late = write(
        tmp_path / "b.mp4", pictures(20), times=[*times[:10], *(each + 30 for each in times[10:])]
    )
    values = [(range(20), 20.0)]
    assert verify(source, source, values).duration_s == pytest.approx(0.76)
    with pytest.raises(UserError, match=r"Frame 11 of the encoded file is shown at 0.430 s"):
        verify(source, late, values)


def test_what_an_encoder_or_a_container_does_not_take_is_one_sentence(tmp_path):
    source = write(tmp_path / "a.mp4", pictures(4), with_sound=True)
    values = [(range(4), 20.0)]
    for codec, preset in (("x264", None), ("x265", "ultrafast")):
        settings = EncoderSettings(codec=codec, preset=preset, options={"no-such": "1"})
        with pytest.raises(UserError, match=f"{codec} refuses an option: .*no-such"):
            transcode(source, tmp_path / "b.mp4", settings, values)
    with pytest.raises(UserError, match=r"cannot be written|does not fit"):
        transcode(source, tmp_path / "b.webm", ENCODERS["videoset"], values)
    with pytest.raises(UserError, match="no preset quick"):
        EncoderSettings(codec="x265", preset="quick")
    with pytest.raises(UserError, match="no codec x266"):
        EncoderSettings(codec="x266")
