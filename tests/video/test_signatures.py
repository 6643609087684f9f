"""The message for a file without a picture names the cause."""

import io

import av
import numpy as np
import pytest
from PIL import Image
from video_clips import moving_clip, muxed

from laser_dist.video.containers import Damage, VideoError
from laser_dist.video.facts import clip_facts
from laser_dist.video.sampling import sample_frames


def refusal(content):
    """Return the message for a file, which all readers agree on."""
    with pytest.raises(VideoError) as sampled:
        sample_frames(content, num_frames=1, width=16, height=16, damage=Damage())
    with pytest.raises(VideoError) as asked:
        clip_facts(content)
    assert sampled.value.message == asked.value.message
    assert sampled.value.hint.endswith(".")
    return sampled.value.message


def mp4_with_codec(tag):
    """Return an MP4 whose only track has a codec of another name."""
    content = muxed(moving_clip(2), "mp4")
    start = content.index(b"avc1", content.index(b"stsd"))
    return content[:start] + tag + content[start + 4 :]


def sound(kind, codec):
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as output:
        stream = output.add_stream(codec, rate=44100)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
        samples.sample_rate = 44100
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=44100)
        for frame in resampler.resample(samples):
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize("start", [b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"])
def test_a_format_without_a_decoder_is_named(start):
    # ISO/IEC 18181-2: a bare codestream, and a file of boxes.
    assert "has no decoder for JPEG XL" in refusal(start + bytes(500))


def test_a_codec_without_a_decoder_is_named():
    assert refusal(mp4_with_codec(b"zzzz")).endswith("has no decoder for its codec (zzzz).")


@pytest.mark.parametrize("tag", [b"encv", b"drmi"])
def test_an_encrypted_video_is_called_encrypted(tag):
    """ISO/IEC 23001-7 renames the codec of an encrypted track, and FairPlay does."""
    assert refusal(mp4_with_codec(tag)).endswith("it is encrypted.")


@pytest.mark.parametrize(
    ("kind", "codec"), [("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "mp3"), ("mp4", "aac")]
)
def test_sound_has_no_picture(kind, codec):
    assert "no picture" in refusal(sound(kind, codec))


def test_a_recording_without_its_index_is_called_truncated():
    content = muxed(moving_clip(8), "mp4")  # the index is at the end
    message = refusal(content[: content.index(b"moov") - 4])
    assert message.endswith("it is truncated: the index at its end is missing.")


def test_a_picture_above_the_limit_is_refused_with_the_limit():
    file = io.BytesIO()
    Image.new("1", (10_000, 7_000)).save(file, "PNG")
    message = refusal(file.getvalue())
    assert message.endswith("it has 10000x7000 pixels; the limit is 67,108,864.")


def test_a_picture_that_is_cut_is_damaged_and_not_too_large():
    file = io.BytesIO()
    Image.fromarray(moving_clip(1, 48, 64).rgb(0)).save(file, "PNG")
    content = file.getvalue()
    assert refusal(content[: len(content) // 2]).endswith("its picture is damaged.")


def test_a_tiff_file_with_more_pixels_than_pillow_takes_is_refused():
    file = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(file, "TIFF", compression="lzma")
    assert "pixels" in refusal(file.getvalue())


def test_an_empty_file_is_called_empty():
    assert refusal(b"").endswith("is empty.")
