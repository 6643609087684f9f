"""Frames are shown as a viewer sees them: tone-mapped, deinterlaced, opaque, upright."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from av.filter import Graph
from PIL import Image, ImageOps
from video_clips import moving_clip

from laser_dist.video.containers import Damage, VideoError
from laser_dist.video.facts import clip_facts
from laser_dist.video.sampling import sample_frames
from laser_dist.video.tone_mapping import sdr_of

# 8-bit SDR levels of ten neutral grays, evenly spaced from black to white, as libswscale maps HLG
# (FFmpeg 8.1, `scale=out_primaries=bt709:out_transfer=bt709:intent=perceptual`).
HLG_OF_FFMPEG = (0, 27, 55, 82, 105, 126, 151, 181, 215, 254)


def shown(source, width=64, height=48):
    """Return all frames of a clip."""
    sample = sample_frames(source, num_frames=99, width=width, height=height, damage=Damage())
    return [frame.rgb for frame in sample]


def test_hlg_is_mapped_about_as_ffmpeg_maps_it():
    signal = np.repeat(np.linspace(0, 1, 10)[:, None], 3, axis=1)
    assert 255 * sdr_of(signal, "HLG")[:, 0] == pytest.approx(HLG_OF_FFMPEG, abs=8)


@pytest.mark.parametrize("hdr", ["PQ", "HLG"])
def test_tone_mapping_keeps_grays_gray_and_their_order(hdr):
    signal = np.repeat(np.linspace(0, 1, 200)[:, None], 3, axis=1)
    mapped = sdr_of(signal, hdr)
    assert np.abs(mapped - mapped[:, :1]).max() < 1 / 255
    assert (np.diff(mapped[:, 0]) >= 0).all()
    assert mapped[0, 0] == 0
    assert mapped[-1, 0] == pytest.approx(1, abs=1 / 255)


def test_white_of_sdr_in_hdr_stays_below_the_highlights():
    """Report ITU-R BT.2408: 203 cd/m2 is the white of graphics, at 58% PQ and 75% HLG."""
    for hdr, signal in (("PQ", 0.5807), ("HLG", 0.75)):
        white = sdr_of(np.full((1, 3), signal), hdr)[0, 0]
        # BT.2446-1, method A, for 203 of 1000 cd/m2, worked out by hand.
        assert white == pytest.approx(0.687, abs=0.004)


def test_the_red_of_bt709_in_hdr_stays_red():
    # BT.709 red of 100 cd/m2 in linear BT.2020 (BT.2087: the first column of the matrix), as PQ.
    light = 100 * np.array([0.6274, 0.0691, 0.0164])
    root = (light / 10_000) ** (2610 / 16384)
    signal = ((0.8359375 + 18.8515625 * root) / (1 + 18.6875 * root)) ** 78.84375
    red, green, blue = sdr_of(signal[None], "PQ")[0]
    assert red > 0.5
    assert max(green, blue) < 0.1


def write_hdr(path, code, transfer, *, size=(64, 48)):
    """Write a gray of a 10-bit code value, in BT.2020."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "4"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, 9, 9
        frame = av.VideoFrame(*size, "yuv420p10le")
        for plane, value in zip(frame.planes, (code, 512, 512), strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_a_file_in_hdr_is_tone_mapped(tmp_path, transfer, name):
    path = tmp_path / "clip.mp4"
    # 58.07% and 75% of 876 steps above 64: white of SDR, see above.
    write_hdr(path, 573 if name == "PQ" else 721, transfer)
    (only,) = shown(path)
    assert np.abs(only.astype(float) - 0.687 * 255).max() < 2


def bwdif(path):
    """Return all frames of a file after FFmpeg's filter, as gray."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        graph = Graph()
        source, last = graph.add_buffer(template=stream), graph.add("bwdif", "mode=send_frame")
        source.link_to(last)
        sink = graph.add("buffersink")
        last.link_to(sink)
        graph.configure()
        for frame in container.decode(stream):
            source.push(frame)
        source.push(None)
        frames = []
        while True:
            try:
                frames.append(sink.pull().to_ndarray(format="gray"))
            except (av.error.EOFError, av.error.BlockingIOError):
                return frames


@pytest.mark.parametrize("kind", ["mkv", "ts"])
def test_an_interlaced_frame_is_deinterlaced_as_by_ffmpeg(tmp_path, kind):
    path = tmp_path / f"clip.{kind}"
    clip = moving_clip(40, 48, 64)
    with av.open(path, "w") as container:
        params = "tff=1:keyint=6:bframes=2:scenecut=0"
        stream = container.add_stream("libx264", rate=25, options={"x264-params": params})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(0, 40, 2):
            frame = clip.frame(index)
            fields = [np.frombuffer(each.planes[0], np.uint8).reshape(48, -1)[:, :64]
                      for each in (frame, clip.frame(index + 1))]  # fmt: skip
            woven = fields[0].copy()
            woven[1::2] = fields[1][1::2]
            gray = av.VideoFrame.from_ndarray(woven, "gray")
            container.mux(stream.encode(gray.reformat(format="yuv420p")))
        container.mux(stream.encode())
    expected = bwdif(path)
    assert len(expected) == 20
    assert clip_facts(path).interlaced
    sample = sample_frames(path, num_frames=4, width=64, height=48)
    for frame, index in zip(sample, (2, 7, 12, 17), strict=True):  # centers of quarters
        # `gray` is of full range. The clip has no color.
        assert np.abs(frame.rgb[..., 1].astype(int) - expected[index]).max() <= 3
        assert np.abs(expected[index].astype(int) - expected[index - 1]).max() > 10


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_a_transparent_image_is_shown_on_white(kind):
    rgb = moving_clip(1, 48, 64).rgb(0)
    alpha = np.where(np.mgrid[:48, :64][1] < 32, 0, 255).astype(np.uint8)
    image = Image.fromarray(np.dstack([rgb, alpha]))
    file = io.BytesIO()
    image.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    stored = Image.open(io.BytesIO(file.getvalue())).convert("RGBA")
    white = Image.new("RGBA", stored.size, "white")
    expected = np.asarray(Image.alpha_composite(white, stored).convert("RGB")).astype(int)
    (only,) = shown(file.getvalue())
    assert np.abs(only[:, :28] - expected[:, :28]).max() <= 2
    assert np.abs(only - expected).mean() < 4  # half of the chroma is lost


def test_an_opaque_image_is_shown_as_without_its_alpha():
    rgb = moving_clip(1, 48, 64).rgb(0)
    files = [io.BytesIO(), io.BytesIO()]
    Image.fromarray(rgb).save(files[0], "PNG")
    Image.fromarray(np.dstack([rgb, np.full((48, 64), 255, np.uint8)])).save(files[1], "PNG")
    (plain,), (opaque,) = (shown(file.getvalue()) for file in files)
    assert np.array_equal(plain, opaque)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_and_mirrored_as_by_pillow(kind, orientation):
    rows, columns = np.mgrid[:48, :64]
    rgb = np.dstack([columns * 3, rows * 5, rows + columns]).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind, exif=exif, quality=98)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))))
    height, width = upright.shape[:2]
    (only,) = shown(file.getvalue(), width, height)
    # A wrong turn or mirror gives over 30.
    assert np.abs(only.astype(int) - upright).mean() < 2


@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "jpeg", "lzma", "zstd"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_tiff_file_is_shown_as_by_pillow(mode, compression):
    rgb = moving_clip(1, 48, 64).rgb(0)
    file = io.BytesIO()
    image = Image.fromarray(rgb).convert(mode)
    image.save(file, "TIFF", compression=compression)
    stored = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    (only,) = shown(file.getvalue())
    assert np.abs(only.astype(int) - stored).mean() < (0.6 if mode == "L" else 5)  # half the chroma


def test_a_tiff_file_that_is_damaged_or_too_large_is_refused(monkeypatch):
    file = io.BytesIO()
    Image.fromarray(moving_clip(1, 48, 64).rgb(0)).save(file, "TIFF", compression="jpeg")
    content = file.getvalue()
    with pytest.raises(VideoError, match="Cannot decode .*: Pillow reports"):
        shown(content[:8] + bytes(400) + content[408:])
    monkeypatch.setattr("laser_dist.video.containers.MAX_PIXELS", 3000)
    with pytest.raises(VideoError, match="64x48 pixels; the limit is 3,000"):
        shown(content)


def test_a_damaged_animation_is_refused():
    file = io.BytesIO()
    pictures = [Image.fromarray(moving_clip(2, 48, 64).rgb(index)) for index in range(2)]
    pictures[0].save(file, "WEBP", save_all=True, append_images=pictures[1:])
    content = file.getvalue()
    middle = len(content) // 2
    with pytest.raises(VideoError, match="Cannot decode .*: Pillow reports"):
        shown(content[:60] + bytes(middle) + content[60 + middle :])


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    deep = (np.arange(64 * 48).reshape(48, 64) * 21).astype(np.uint16)
    for kind in ("tiff", "png", "pgm"):
        path = tmp_path / f"image.{kind}"
        Image.fromarray(deep).save(path)
        (only,) = shown(path)
        assert np.abs(only - (deep / 257)[..., None]).max() <= 1


def test_all_frames_of_an_animation_count():
    frames = [
        Image.fromarray(np.full((48, 64, 3), 40 + 40 * index, np.uint8)) for index in range(4)
    ]
    for kind in ("GIF", "WEBP", "PNG"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=100)
        found = [rgb.mean() for rgb in shown(file.getvalue())]
        assert found == pytest.approx([40, 80, 120, 160], abs=2), kind


def test_pixels_that_are_not_square_do_not_change_the_picture(tmp_path):
    clips = []
    for aspect in (Fraction(1), Fraction(2)):
        path = tmp_path / f"{aspect}.mp4"
        with av.open(path, "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"qp": "10"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.sample_aspect_ratio = aspect
            container.mux(stream.encode(moving_clip(1, 48, 64).frame(0)))
            container.mux(stream.encode())
        clips.append(shown(path, 32, 32)[0])
    assert np.array_equal(*clips)
