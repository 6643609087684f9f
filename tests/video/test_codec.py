from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_clips import NTSC, moving_clip, picture_bits, random_clip, x264_settings

from laser_dist.video.codec import VIDEOSET, decode, encode_h264, picture_bytes, x264_version
from laser_dist.video.containers import VideoError

# The SEI of VideoSet's own streams (x264 core 148), without version and threads.
VIDEOSET_SEI = {
    "cabac": "1",
    "ref": "3",
    "deblock": "1:0:0",
    "analyse": "0x3:0x111",
    "me": "umh",
    "subme": "9",
    "psy": "0",
    "mixed_ref": "1",
    "me_range": "128",
    "chroma_me": "1",
    "trellis": "2",
    "8x8dct": "1",
    "deadzone": "21,11",
    "fast_pskip": "0",
    "chroma_qp_offset": "0",
    "bframes": "3",
    "b_pyramid": "2",
    "b_adapt": "2",
    "direct": "3",
    "weightb": "1",
    "open_gop": "0",
    "weightp": "2",
    "keyint": "60",
    "keyint_min": "31",
    "scenecut": "0",
    "rc": "cqp",
    "mbtree": "0",
    "ip_ratio": "1.00",
    "pb_ratio": "1.00",
    "aq": "0",
}

IDR_SLICE, OTHER_SLICE = 5, 1


@pytest.fixture(scope="module")
def clip():
    return moving_clip(8)


@pytest.fixture(scope="module")
def coded(clip):
    return encode_h264(clip, qp=27)


def slices(stream):
    """Return the NAL unit types of the slices of an Annex-B stream, in order."""
    types = [unit[0] & 31 for unit in stream.split(b"\0\0\1")[1:]]
    return [kind for kind in types if kind in (IDR_SLICE, OTHER_SLICE)]


@pytest.mark.parametrize("setting", VIDEOSET_SEI)
def test_each_videoset_setting_is_in_the_sei(coded, setting):
    assert x264_settings(coded)[setting] == VIDEOSET_SEI[setting]


@pytest.mark.parametrize("qp", [1, 27, 51])
def test_the_qp_is_in_the_sei(clip, qp):
    assert x264_settings(encode_h264(clip, qp=qp))["qp"] == str(qp)


def test_one_thread_and_unsliced_frames(coded, clip):
    written = x264_settings(coded)
    assert (written["threads"], written["lookahead_threads"]) == ("1", "1")
    assert len(slices(coded)) == clip.num_frames


def test_other_settings_reach_the_encoder(clip):
    stream = encode_h264(clip, qp=27, settings=replace(VIDEOSET, ref=1, me="hex"))
    written = x264_settings(stream)
    assert (written["ref"], written["me"]) == ("1", "hex")


def test_an_idr_picture_every_60_frames():
    kinds = slices(encode_h264(moving_clip(130, 16, 16), qp=40))
    assert [index for index, kind in enumerate(kinds) if kind == IDR_SLICE] == [0, 60, 120]


def test_the_version_comes_from_the_sei(coded):
    assert int(x264_version(coded) or 0) >= 148
    videosets = (
        b"\0\0\1\6x264 - core 148 r2748 97eaef2 - H.264/MPEG-4 AVC codec - ... options: a=1\0"
    )
    assert x264_version(videosets) == "148 r2748 97eaef2"


def test_a_stream_without_an_sei_has_no_version():
    assert x264_version(b"") is None


def test_the_same_clip_gives_the_same_bytes(clip, coded):
    assert encode_h264(clip, qp=27) == coded


@settings(deadline=None, max_examples=15)
@given(
    num_frames=st.integers(1, 5),
    height=st.integers(8, 24).map(lambda half: 2 * half),
    width=st.integers(8, 24).map(lambda half: 2 * half),
    seed=st.integers(0, 99),
)
def test_qp_0_is_lossless(num_frames, height, width, seed):
    clip = random_clip(num_frames, height, width, seed=seed)
    decoded = decode(encode_h264(clip, qp=0))
    assert np.array_equal(decoded.y, clip.y)
    assert np.array_equal(decoded.u, clip.u)
    assert np.array_equal(decoded.v, clip.v)
    assert decoded.timestamps == clip.timestamps


def test_a_higher_qp_gives_fewer_bytes_and_larger_errors(clip):
    streams = [encode_h264(clip, qp=qp) for qp in (1, 12, 24, 36, 48)]
    errors = [np.square(decode(stream).y.astype(int) - clip.y).mean() for stream in streams]
    assert sorted(map(len, streams), reverse=True) == list(map(len, streams))
    assert sorted(errors) == errors
    assert errors[0] > 0


@pytest.mark.parametrize("qp", [-1, 52])
def test_a_qp_out_of_range_is_refused(clip, qp):
    with pytest.raises(ValueError, match=r"qp must be in 0\.\.51"):
        encode_h264(clip, qp=qp)


def test_a_clip_too_small_to_encode_is_refused():
    with pytest.raises(VideoError, match="The clip has 16x14 pixels; the minimum is 16x16"):
        encode_h264(random_clip(1, 14, 16), qp=30)


def test_fps_replaces_the_rate_of_a_raw_stream(coded):
    assert decode(coded).fps == NTSC
    named = decode(coded, fps=Fraction(24))
    assert named.fps == 24
    assert named.timestamps == tuple(Fraction(index, 24) for index in range(8))


@pytest.mark.parametrize("qp", [0, 20, 51])
def test_the_size_of_pictures_is_what_their_mp4_holds(clip, qp):
    stream = encode_h264(clip, qp=qp)
    assert 8 * picture_bytes(stream) == picture_bits(stream)


def test_parameter_sets_sei_and_padding_are_no_picture(clip, coded):
    # SEI, filler data, padding and an access unit delimiter between the units of the pictures.
    other = b"\0\0\1\6" + b"\5" * 4000 + b"\0\0\0\1\x0c\xff\xff\x80\0\0\0\0\1\x09\xf0"
    units = coded.split(b"\0\0\1")
    assert picture_bytes(other + (other + b"\0\0\1").join(units)) == picture_bytes(coded)
    assert picture_bytes(b"") == picture_bytes(b"\0\0\1") == 0
