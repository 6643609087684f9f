import contextlib
import gc
import io
import pickle
from fractions import Fraction
from functools import partial

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps
from skimage.metrics import peak_signal_noise_ratio
from video_clips import NTSC, moving_clip, muxed, num_decoded_frames, random_clip

from laser_dist.errors import UserError
from laser_dist.isolation import Isolated
from laser_dist.video.codec import decode, encode_h264, frame_size
from laser_dist.video.containers import VideoError
from laser_dist.video.frames import Clip
from laser_dist.video.quality import measure_quality
from laser_dist.video.sampling import sample_frames


@pytest.fixture(scope="module")
def clip():
    return moving_clip(8)


@pytest.fixture(scope="module")
def raw(clip):
    return encode_h264(clip, qp=27)


@pytest.fixture(scope="module")
def files(clip, tmp_path_factory):
    """Return the clip in common containers, by name."""
    return {
        "annexb": encode_h264(clip, qp=27),
        "mp4": muxed(clip, "mp4"),
        "mp4 for the web": muxed(clip, "mp4", folder=tmp_path_factory.mktemp("web")),
        "matroska": muxed(clip, "matroska"),
        "avi": muxed(clip, "avi", codec="mpeg4"),
        "mpegts": muxed(clip, "mpegts"),
    }


KINDS = ("annexb", "mp4", "mp4 for the web", "matroska", "avi", "mpegts")


def image_bytes(rgb, kind, **options):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_every_container_gives_all_frames_and_timestamps(clip, files, kind):
    decoded = decode(files[kind])
    assert (decoded.num_frames, decoded.height, decoded.width) == (8, 48, 64)
    assert decoded.fps == NTSC
    tick = Fraction(1, 1000) if kind == "matroska" else 0  # its clock counts milliseconds
    pairs = zip(decoded.timestamps, clip.timestamps, strict=True)
    assert all(abs(ours - exact) <= tick for ours, exact in pairs)
    assert np.abs(decoded.y.astype(int) - clip.y).mean() < 4


def test_a_path_and_its_content_decode_to_the_same_clip(files, tmp_path):
    path = tmp_path / "a:b%02d.mp4"  # neither FFmpeg's "a:" protocol nor its "%02d" pattern
    path.write_bytes(files["mp4"])
    assert np.array_equal(decode(path).y, decode(files["mp4"]).y)


def test_max_frames_keeps_the_first_frames(raw):
    few = decode(raw, max_frames=3)
    assert np.array_equal(few.y, decode(raw).y[:3])
    with pytest.raises(ValueError, match="max_frames"):
        decode(raw, max_frames=0)


def test_fps_is_ignored_for_streams_with_timestamps(files):
    assert decode(files["mp4"], fps=Fraction(24)).fps == NTSC


def test_an_rgb_image_decodes_to_the_clip_of_its_pixels():
    rgb = moving_clip(1).rgb(0)
    image, clip = decode(image_bytes(rgb, "PNG")), Clip.from_rgb(rgb[None], NTSC)
    assert image.timestamps == (0,)
    assert np.array_equal(image.y, clip.y)
    assert np.array_equal(image.u, clip.u)
    assert np.array_equal(image.v, clip.v)


def test_jpeg_matrix_and_range_are_honored():
    rgb = np.zeros((32, 32, 3), np.uint8) + np.array([200, 60, 30], np.uint8)
    jpeg = image_bytes(rgb, "JPEG", quality=95)
    theirs = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)
    # Read as BT.709 or as limited range, red would be off by more than 10.
    assert np.abs(decode(jpeg).rgb(0) - theirs).max() <= 3


def test_gray_and_transparent_images_are_read():
    ramp = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    gray = decode(image_bytes(ramp, "PNG"))
    assert np.array_equal(gray.y[0], ramp)
    assert set(gray.u.ravel().tolist()) == {128}
    opaque = np.dstack([ramp, ramp, ramp, np.full_like(ramp, 255)])
    assert np.abs(decode(image_bytes(opaque, "PNG")).rgb(0) - gray.rgb(0).astype(int)).max() <= 1


def test_odd_sizes_are_cropped_to_even():
    rgb = random_clip(1, 34, 20).rgb(0)
    odd = decode(image_bytes(np.ascontiguousarray(rgb[:33, :19]), "PNG"))
    assert (odd.height, odd.width) == (32, 18)
    assert np.array_equal(odd.y, decode(image_bytes(rgb, "PNG")).y[:, :32, :18])


def odd_video(seed, width=75, height=51):
    """Return a lossless file of an odd size, and its luma, [T, H, W]."""
    target, luma = io.BytesIO(), []
    with av.open(target, "w", format="matroska") as output:
        stream = output.add_stream("ffv1", rate=NTSC)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for rgb in np.random.default_rng(seed).integers(0, 256, (3, height, width, 3), np.uint8):
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format="yuv420p")
            luma.append(np.asarray(frame.planes[0]).reshape(height, -1)[:, :width].copy())
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return target.getvalue(), np.stack(luma)


def test_a_video_of_odd_size_is_measured_without_its_last_row_and_column():
    (before, y), (after, other) = odd_video(0), odd_video(1)
    clips = [decode(before), decode(after)]
    assert np.array_equal(clips[0].y, y[:, :50, :74])
    assert clips[0].u.shape == (3, 25, 37)
    rgb = [clip.rgb_frames(width=64, height=48) for clip in clips]
    quality = measure_quality(*clips, reference_rgb=rgb[0], distorted_rgb=rgb[1])
    assert quality.psnr_y_db == pytest.approx(
        peak_signal_noise_ratio(y[:, :50, :74], other[:, :50, :74]), rel=1e-9
    )


def test_ten_bits_become_eight(clip):
    deep = decode(muxed(clip, "matroska", codec="ffv1", pixel_format="yuv420p10le"))
    assert np.abs(deep.y.astype(int) - clip.y).max() <= 1
    assert np.abs(deep.u.astype(int) - clip.u).max() <= 1


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_frames_are_rotated_as_the_file_asks(clip, degrees, tmp_path):
    plain, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    plain.write_bytes(muxed(clip, "mp4"))
    turned.write_bytes(muxed(clip, "mp4", rotation=degrees))
    before, after = decode(plain), decode(turned)
    # The muxer turns counter-clockwise, as numpy does.
    assert np.array_equal(after.y, np.rot90(before.y, degrees // 90, axes=(1, 2)))
    assert frame_size(turned) == (after.width, after.height)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_rotation_agrees_with_pillow(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = image_bytes(moving_clip(1).rgb(0), "JPEG", quality=98, subsampling=0, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg)))).astype(int)
    ours = decode(jpeg).rgb(0)
    assert ours.shape == upright.shape
    assert np.abs(ours - upright).mean() < 4  # 4:2:0 and rounding; a wrong turn gives over 30


@pytest.mark.parametrize("orientation", [2, 4, 5, 7])
def test_a_mirrored_photograph_has_the_upright_size(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    clip = decode(image_bytes(moving_clip(1).rgb(0), "JPEG", exif=exif))
    assert (clip.width > clip.height) == (orientation in (2, 4))  # 5 and 7 rotate too


def test_an_image_with_a_color_profile_does_not_crash():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb = moving_clip(1).rgb(0)
    # PyAV's side data would free the profile twice, which crashes the process.
    profiled = decode(image_bytes(rgb, "PNG", icc_profile=profile))
    gc.collect()
    assert np.array_equal(profiled.y, decode(image_bytes(rgb, "PNG")).y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.05, 0.4, 0.7, 0.95])
def test_a_truncated_file_is_an_error(files, kind, share):
    complete = files[kind]
    cut = complete[: int(len(complete) * share)]
    if kind in ("annexb", "mpegts"):  # no stated length: a cut between two frames is not detected
        with contextlib.suppress(VideoError):
            assert decode(cut).num_frames < 8
        return
    with pytest.raises(VideoError):
        decode(cut)


def test_a_raw_stream_truncated_inside_a_frame_is_an_error(raw):
    last = raw.rindex(b"\0\0\1")
    with pytest.raises(VideoError, match="Cannot decode .* bytes in memory"):
        decode(raw[: (last + len(raw)) // 2])


def test_an_mp4_truncated_between_frames_is_an_error(files):
    complete = files["mp4 for the web"]
    with av.open(io.BytesIO(complete)) as container:
        entry = container.streams.video[0].index_entries[5]
        cut = complete[: entry.pos + entry.size]
    with pytest.raises(VideoError, match="truncated"):
        decode(cut)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("matroska", r"truncated \(0\.\d+ of 0\.267 s\)"),
        ("avi", r"truncated \(\d of 8 frames\)"),
    ],
)
def test_a_file_truncated_between_blocks_is_an_error(files, kind, message):
    with av.open(io.BytesIO(files[kind])) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    with pytest.raises(VideoError, match=message):
        decode(files[kind][: sorted(starts)[4]])


@pytest.fixture(scope="module")
def isolated():
    isolated = Isolated(60.0)
    yield isolated
    isolated.close()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_damage_gives_a_clip_or_a_video_error(files, isolated, data):
    content = bytearray(files[data.draw(st.sampled_from(KINDS))])
    for _ in range(data.draw(st.integers(0, 6))):
        # Half of them in the headers, where most failures start.
        limit = data.draw(st.sampled_from((300, len(content))))
        content[data.draw(st.integers(0, min(limit, len(content)) - 1))] = data.draw(
            st.integers(0, 255)
        )
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    # In a child process, which restarts when FFmpeg crashes.
    num_frames = isolated.call(num_decoded_frames, bytes(content[:cut]))
    assert num_frames is None or num_frames >= 1


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 5000, b"# A heading\n\nSome text, no video.\n" * 40, bytes(range(256)) * 20],
    ids=["empty", "zeros", "text", "bytes"],
)
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(
        VideoError, match=r"clip\.mp4 is empty|Cannot decode .*clip\.mp4: it is damaged"
    ):
        decode(path)
    with pytest.raises(VideoError):
        frame_size(path)
    with pytest.raises(VideoError):
        sample_frames(path, num_frames=1, width=16, height=16)


@pytest.mark.parametrize(
    ("container", "problem"),
    [("wav", "it has sound, but no picture"), ("matroska", "it has no picture")],
)
def test_an_audio_file_is_refused(container, problem):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    with pytest.raises(VideoError, match=problem):
        decode(file.getvalue())


@pytest.mark.parametrize(
    ("sizes", "defaults", "picked"),
    [
        ([(32, 16), (64, 32), (48, 32)], [0, 1, 2], 1),  # the most pixels
        ([(32, 16), (64, 32)], [0], 0),  # but a default stream first
        ([(64, 32), (64, 32)], [0, 1], 0),  # and the first of equal ones
        ([(64, 32), (64, 32)], [1], 1),
    ],
)
def test_of_several_streams_the_one_is_read_that_ffmpeg_picks(tmp_path, sizes, defaults, picked):
    """FFmpeg's manual, "Automatic stream selection": for video, the highest resolution.

    Its program adds 5,000,000 pixels to a stream that is marked as default.
    """
    path = tmp_path / "several.mkv"
    with av.open(path, "w") as output:
        streams = []
        for number, (width, height) in enumerate(sizes):
            stream = output.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = Disposition.default if number in defaults else Disposition(0)
            streams.append(stream)
        for number, stream in enumerate(streams):
            gray = np.full((stream.height, stream.width, 3), 60 + 40 * number, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(gray, "rgb24")))
            output.mux(stream.encode())
    read = decode(path)
    assert (read.width, read.height) == sizes[picked]
    assert read.rgb(0).mean() == pytest.approx(60 + 40 * picked, abs=1.5)


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    with pytest.raises(VideoError, match="absent.mp4 does not exist"):
        decode(tmp_path / "absent.mp4")
    with pytest.raises(VideoError, match="is a folder"):
        frame_size(tmp_path)


def test_a_clip_below_the_minimum_size_is_refused():
    for height, width in ((1, 1), (16, 15), (15, 17)):
        with pytest.raises(VideoError, match=f"has {width}x{height} pixels; the minimum is 16x16"):
            decode(image_bytes(np.zeros((height, width, 3), np.uint8), "PNG"))


def test_every_reader_reports_the_uncropped_size_of_a_small_image(tmp_path):
    path = tmp_path / "dot.png"
    path.write_bytes(image_bytes(np.zeros((3, 1, 3), np.uint8), "PNG"))
    for read in (decode, frame_size, partial(sample_frames, num_frames=1, width=16, height=16)):
        with pytest.raises(VideoError, match=r"dot\.png has 1x3 pixels"):
            read(path)


def test_the_reported_size_of_a_rotated_image_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by a quarter turn
    with pytest.raises(VideoError, match="has 3x20 pixels"):
        decode(image_bytes(np.zeros((3, 20, 3), np.uint8), "JPEG", exif=exif))


def test_frames_of_changing_size_are_refused():
    both = [encode_h264(moving_clip(2, side, side), qp=30) for side in (32, 48)]
    with pytest.raises(VideoError, match=r"different sizes \(32x32, 48x48\)"):
        decode(b"".join(both))


def test_the_error_survives_pickling(tmp_path):
    with pytest.raises(VideoError) as caught:
        decode(tmp_path / "absent.mp4")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, VideoError)
    assert isinstance(copy, UserError)
    assert str(copy) == str(caught.value)
