"""`laser-jnd ladder`: what players find in its folder, read with FFmpeg's demuxers and as XML.

The model's levels are the mean red, green and blue of a picture.
"""

import io
import json
import re
import subprocess
from fractions import Fraction
from xml.etree import ElementTree

import av
import numpy as np
import onnx
import pytest
from command_line import laser_jnd_here, refusal
from onnx_graphs import about, graph_of, mean_color, write_light_inputs

from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.video.coded_qps import coded_qps

pytestmark = pytest.mark.slow

FPS, FRAMES = 25, 65
COLOR = (24, 30, 37)  # JND1, JND2 and JND3
WIDTH, HEIGHT = 192, 128
MPD = "{urn:mpeg:dash:schema:mpd:2011}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with models, with and without spreads, and a clip of 2.6 s with sound."""
    folder = tmp_path_factory.mktemp("ladder")
    write_light_inputs(folder)
    for spread in (4.0, 100.0):
        (folder / f"spread-{spread:g}.onnx").write_bytes(with_spread(spread))
    write(folder / "clip.mp4", sound="aac")
    return folder


def with_spread(spread):
    """Return a model whose levels are the mean color, all with the same spread."""
    make, tensor = onnx.helper.make_node, onnx.helper.make_tensor
    values = {"zero": 0.0, "spread": spread}
    constants = [
        make("Constant", [], [name], value=tensor(name, onnx.TensorProto.FLOAT, [], [value]))
        for name, value in values.items()
    ]
    nodes = [
        *constants,
        *mean_color(),
        make("Mul", ["levels", "zero"], ["zeros"]),
        make("Add", ["zeros", "spread"], ["spreads"]),
    ]
    spec = PredictorSpec(
        variant="mj-lat", levels=(1, 2, 3), scale="QP", simulated=True, spread=True
    )
    outputs = [("levels", [None, 3]), ("spreads", [None, 3])]
    return graph_of(nodes, outputs, metadata=about(spec=vars(spec)))


def write(path, *, sound="", pix_fmt="yuv444p", qp="1", start=0, late=0, **settings):
    """Write noise of `COLOR`, and as much sound; both from a time in frames.

    The last frame is `late` frames late.
    """
    rng = np.random.default_rng(0)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"qp": qp})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        tone = container.add_stream(sound, rate=48000) if sound else None
        if tone:
            tone.metadata["language"] = "deu"
        for index in range(FRAMES):
            noise = rng.integers(-8, 9, (HEIGHT // 4, WIDTH // 4, 1))
            pixels = np.array(COLOR) + np.kron(noise, np.ones((4, 4, 1)))
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), "rgb24")
            frame.pts = start + index + late * (index == FRAMES - 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for index in range(FRAMES * 48000 // FPS // 1024 if tone else 0):
            wave = np.sin(np.arange(1024) / 20).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), "fltp", "stereo")
            frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
            frame.pts = start * 48000 // FPS + index * 1024
            container.mux(tone.encode(frame))
        if tone:
            container.mux(tone.encode())


def ladder(folder, *words, clip="clip.mp4", output="out", model="spread-4.onnx"):
    words = ("--output", output, "--model", model, *words)
    return laser_jnd_here("ladder", clip, *words, cwd=folder)


def built(folder, output, *words, **options):
    """Build a ladder of two heights and segments of 1 s, and return its JSON."""
    words = ("--heights", "128,64", "--segment-s", "1", "--margin", "0", *words)
    done = ladder(folder, *words, "--format", "json", output=output, **options)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((folder / output / "ladder.json").read_text())
    return document


def content_of(place):
    """Return the header and the segments of a rendition as one MP4 file."""
    return b"".join(
        path.read_bytes() for path in [place / "init.mp4", *sorted(place.glob("*.m4s"))]
    )


def kept(document):
    return [rung["name"] for rung in document["rungs"] if rung["kept"]]


@pytest.fixture(scope="module")
def document(folder):
    """Return the JSON of a ladder in the folder `out`."""
    return built(folder, "out")


def test_each_rendition_decodes_completely_with_key_frames_at_the_same_times(folder, document):
    names = kept(document)
    assert {name.partition("p")[0] for name in names} == {"128", "64"}
    for name in names:
        height = int(name.partition("p")[0])
        with av.open(str(folder / "out" / name / "media.m3u8")) as container:
            frames = list(container.decode(video=0))
        assert [frame.time for frame in frames] == pytest.approx(np.arange(FRAMES) / FPS)
        assert {(frame.width, frame.height) for frame in frames} == {(height * 3 // 2, height)}
        starts = [frame.time for frame in frames if frame.key_frame]
        assert starts == pytest.approx([0, 1, 2])


def test_each_rendition_has_the_quantizers_of_its_level(folder, document):
    for rung in document["rungs"]:
        qp = {"jnd1": COLOR[0], "jnd2": COLOR[1], "jnd3": COLOR[2]}[rung["level"]]
        (scene,) = rung["scenes"]
        assert scene["qp"] == scene["quantizer"] == pytest.approx(qp, abs=1)
        if rung["kept"]:
            content = content_of(folder / "out" / rung["name"])
            assert coded_qps(content) == pytest.approx(scene["qp"], abs=0.01)


def test_what_is_dropped_says_why(document):
    assert {rung["reason"] for rung in document["rungs"]} <= {
        "first-of-its-height", "a-jnd-or-more", "not-fewer-bits",
    }  # fmt: skip
    rate = [rung["video_bitrate_kbps"] for rung in document["rungs"] if rung["kept"]]
    assert rate == sorted(rate, reverse=True)
    first = document["rungs"][0]
    assert (first["name"], first["share_who_see"]) == ("128p-jnd1", None)
    assert 0.25 <= document["rungs"][1]["share_who_see"] <= 1
    assert document["heights_compared_by_viewers"] is False
    assert any("one model for several heights" in each for each in document["warnings"])


def test_sizes_and_bit_rates_are_those_of_the_segments(folder, document):
    for rung in document["rungs"]:
        place = folder / "out" / rung["name"]
        assert place.exists() is rung["kept"]
        if not rung["kept"]:
            continue
        sizes = [path.stat().st_size for path in place.glob("*.m4s")]
        assert rung["num_bytes"] == sum(sizes)
        with av.open(io.BytesIO(content_of(place))) as container:
            video = sum(packet.size for packet in container.demux(video=0))
        # The container writes a byte or two more per picture, for its size, than the encoder.
        assert rung["video_bitrate_kbps"] == pytest.approx(8 * video / 2.6 / 1000, abs=0.4)
    total = sum(path.stat().st_size for path in (folder / "out").rglob("*.m4s"))
    assert document["num_bytes"] == total


def attributes(line):
    """Return the attributes of a line of an HLS playlist, RFC 8216, 4.2."""
    pairs = re.findall(r'([A-Z-]+)=("[^"]*"|[^,]*)', line.partition(":")[2])
    return {name: value.strip('"') for name, value in pairs}


def test_the_hls_playlist_names_what_players_choose_by(folder, document):
    lines = (folder / "out" / "master.m3u8").read_text().splitlines()
    (sound,) = [attributes(line) for line in lines if line.startswith("#EXT-X-MEDIA:")]
    assert (sound["LANGUAGE"], sound["CHANNELS"]) == ("deu", "2")
    shown = [at for at, line in enumerate(lines) if line.startswith("#EXT-X-STREAM-INF:")]
    assert [lines[at + 1] for at in shown] == [f"{name}/media.m3u8" for name in kept(document)]
    for name, at in zip(kept(document), shown, strict=True):
        found = attributes(lines[at])
        height = int(name.partition("p")[0])
        assert found["RESOLUTION"] == f"{height * 3 // 2}x{height}"
        assert (found["FRAME-RATE"], found["AUDIO"]) == ("25.000", sound["GROUP-ID"])
        # What the H.264 header says: profile, constraints and level, after the version.
        header = (folder / "out" / name / "init.mp4").read_bytes()
        profile = header[header.index(b"avcC") + 5 :][:3].hex()
        assert found["CODECS"] == f"avc1.{profile},mp4a.40.2"
        means, peaks = [], []
        for each in (name, "sound-1"):
            durations = segment_durations(folder / "out" / each / "media.m3u8")
            sizes = [path.stat().st_size for path in sorted((folder / "out" / each).glob("*.m4s"))]
            means.append(8 * sum(sizes) / sum(durations))
            peaks.append(max(8 * size / s for size, s in zip(sizes, durations, strict=True)))
        assert int(found["AVERAGE-BANDWIDTH"]) == pytest.approx(sum(means), abs=2.1)
        assert int(found["BANDWIDTH"]) == pytest.approx(sum(peaks), abs=2.1)
    with av.open(str(folder / "out" / "master.m3u8")) as container:
        assert len(container.streams.video) == len(kept(document))
        assert len(container.streams.audio) == 1


def segment_durations(playlist):
    lines = playlist.read_text().splitlines()
    found = [float(line[8:].rstrip(",")) for line in lines if line.startswith("#EXTINF:")]
    (target,) = [int(line[22:]) for line in lines if line.startswith("#EXT-X-TARGETDURATION:")]
    assert max(map(round, found)) <= target
    return found


def test_the_dash_manifest_has_the_same_segments(folder, document):
    root = ElementTree.parse(folder / "out" / "manifest.mpd").getroot()
    assert root.attrib["mediaPresentationDuration"] == "PT2.600S"
    groups = root.findall(f"{MPD}Period/{MPD}AdaptationSet")
    assert [group.attrib["contentType"] for group in groups] == ["video", "audio"]
    assert groups[1].attrib["lang"] == "deu"
    shown = [each for group in groups for each in group.findall(f"{MPD}Representation")]
    assert [each.attrib["id"] for each in shown] == [*kept(document), "sound-1"]
    for each in shown:
        name = each.attrib["id"]
        template = each.find(f"{MPD}SegmentTemplate")
        clock = int(template.attrib["timescale"])
        durations = []
        for line in template.iter(f"{MPD}S"):
            durations += [int(line.attrib["d"]) / clock] * (1 + int(line.get("r", "0")))
        playlist = folder / "out" / name / "media.m3u8"
        assert durations == pytest.approx(segment_durations(playlist), abs=1e-6)
        words = {"$RepresentationID$": name, "$Number%05d$": "00001"}
        for key in ("initialization", "media"):
            path = template.attrib[key]
            for word, value in words.items():
                path = path.replace(word, value)
            assert (folder / "out" / path).exists()
        if each.get("height"):
            assert durations == pytest.approx([1, 1, 0.6])
            assert each.attrib["frameRate"] == "25"


def test_ffmpeg_decodes_all_tracks_of_the_dash_manifest(folder, document, ffmpeg):
    manifest = folder / "out" / "manifest.mpd"
    tracks = [*(f"v:{index}" for index in range(len(kept(document)))), "a:0"]
    for track in tracks:
        words = [ffmpeg, "-v", "error", "-xerror", "-i", manifest, "-map", f"0:{track}"]
        words += ["-f", "framecrc", "-"]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        frames = [line for line in done.stdout.splitlines() if not line.startswith("#")]
        if track != "a:0":
            assert len(frames) == FRAMES
        else:
            seconds = sum(int(line.split(",")[3]) for line in frames) / 48000
            assert seconds == pytest.approx(FRAMES / FPS, abs=0.1)


def test_sound_is_copied_and_stays_in_time(folder):
    """Video and sound that start late start at 0, with the same packets."""
    write(folder / "late.mkv", sound="aac", start=50)
    built(folder, "late", clip="late.mkv")
    with av.open(folder / "late.mkv") as container:
        source = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    with av.open(str(folder / "late" / "sound-1" / "media.m3u8")) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
    assert [bytes(packet) for packet in packets] == source
    # The encoder of the source starts with a packet of silence before the first sample.
    assert float(packets[0].pts * packets[0].time_base) == pytest.approx(0, abs=0.03)
    with av.open(str(folder / "late" / "128p-jnd1" / "media.m3u8")) as container:
        assert next(container.decode(video=0)).time == pytest.approx(0, abs=0.002)


def test_other_sound_becomes_aac_and_each_stream_is_a_track(folder, ffmpeg):
    """Two tones of different pitch, in two codecs, are heard at their times in their tracks."""
    tones, starts = (500, 2000), ("0", "0.5")
    words = [ffmpeg, "-i", "clip.mp4"]
    for start, hertz in zip(starts, tones, strict=True):
        tone = f"sine=frequency={hertz}:duration=2:sample_rate=32000"
        words += ["-itsoffset", start, "-f", "lavfi", "-i", tone]
    words += ["-map", "0:v", "-map", "1:a", "-map", "2:a", "-c:v", "copy"]
    words += ["-c:a:0", "aac", "-c:a:1", "flac", "-metadata:s:a:1", "language=fra", "two.mkv"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    document = built(folder, "two", clip="two.mkv")
    assert document["left_out"] == []
    assert [each["is_converted"] for each in document["sounds"]] == [False, True]
    assert [each["codec"] for each in document["sounds"]] == ["aac", "flac"]
    for number, hertz in enumerate(tones, start=1):
        with av.open(str(folder / "two" / f"sound-{number}" / "media.m3u8")) as container:
            stream = container.streams.audio[0]
            assert stream.codec_context.name == "aac"
            rate = stream.sample_rate
            frames = list(container.decode(stream))
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(float)
        heard = np.flatnonzero(np.abs(samples) > 0.3 * np.abs(samples).max()) / rate
        start = float(frames[0].time)
        assert heard[-1] - heard[0] == pytest.approx(2, abs=0.05)
        assert start + heard[0] == pytest.approx(float(starts[number - 1]), abs=0.05)
        spectrum = np.abs(np.fft.rfft(samples))
        assert np.argmax(spectrum) * rate / len(samples) == pytest.approx(hertz, abs=5)
    assert 'LANGUAGE="fra"' in (folder / "two" / "master.m3u8").read_text()


@pytest.mark.parametrize(("codec", "channels"), [("mp2", 2), ("pcm_dvd", 1), ("aac", 2)])
def test_sound_of_joined_streams_continues(folder, ffmpeg, codec, channels):
    """Joined files start their clocks again; the second one may have another number of channels."""
    kind = "vob" if codec == "pcm_dvd" else "mpegts"
    parts = []
    for number in range(2):
        words = [ffmpeg, "-i", "clip.mp4", "-f", "lavfi", "-i", "sine=frequency=500:duration=2.6"]
        words += ["-map", "0:v", "-map", "1:a", "-c:v", "mpeg2video", "-q:v", "1", "-c:a", codec]
        words += ["-pix_fmt", "yuv420p", "-ar", "48000"]
        words += ["-ac", str(channels if number else 2), "-f", kind, f"{number}.{codec}"]
        subprocess.run([*words, "-y"], cwd=folder, check=True, capture_output=True)
        parts.append((folder / f"{number}.{codec}").read_bytes())
    name = f"{codec}.ts"
    (folder / name).write_bytes(b"".join(parts))
    document = built(folder, f"joined-{codec}", "--levels", "1", "--heights", "128", clip=name)
    (sound,) = document["sounds"]
    assert sound["is_converted"] == (codec != "aac")
    with av.open(str(folder / f"joined-{codec}" / "sound-1" / "media.m3u8")) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].layout.nb_channels == 2
    assert sum(frame.samples for frame in frames) / 48000 == pytest.approx(5.2, abs=0.15)
    with av.open(str(folder / f"joined-{codec}" / "128p-jnd1" / "media.m3u8")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2 * FRAMES


def test_a_last_frame_alone_in_its_segment_is_shown_for_the_time_of_a_frame(folder):
    # FLV states no length of a frame.
    write(folder / "last.flv", pix_fmt="yuv420p", late=200)
    built(folder, "last-frame", "--levels", "1", "--heights", "128", clip="last.flv")
    playlist = (folder / "last-frame" / "128p-jnd1" / "media.m3u8").read_text()
    lengths = [float(each) for each in re.findall(r"#EXTINF:([\d.]+)", playlist)]
    assert lengths[-1] == pytest.approx(1 / FPS, abs=2e-3)
    assert sum(lengths) == pytest.approx((FRAMES + 200) / FPS, abs=0.01)


def test_viewers_who_differ_much_get_one_rung_per_height(folder):
    document = built(folder, "wide", "--heights", "128", model="spread-100.onnx")
    assert kept(document) == ["128p-jnd1"]
    assert {rung["reason"] for rung in document["rungs"]} == {
        "first-of-its-height", "less-than-a-jnd",
    }  # fmt: skip
    assert all(rung["share_who_see"] < 0.25 for rung in document["rungs"][1:])


def test_a_clip_that_is_coarser_than_its_rungs_is_named(folder):
    write(folder / "coarse.mp4", pix_fmt="yuv420p", qp="45")
    document = built(folder, "coarse", "--levels", "3", clip="coarse.mp4")
    (named,) = [each for each in document["warnings"] if "itself encoded" in each]
    assert "at QP 45" in named
    assert named.endswith("not finer than 128p-jnd3")


def test_each_height_has_its_model(folder):
    words = ("--model", "128=m.onnx", "--levels", "1,3")
    document = built(folder, "models", *words)
    models = {rung["height"]: rung["model"] for rung in document["rungs"]}
    assert models == {128: "m.onnx", 64: "spread-4.onnx"}
    assert {rung["level"] for rung in document["rungs"]} == {"jnd1", "jnd3"}
    assert not any("one model" in each for each in document["warnings"])


@pytest.mark.parametrize(
    ("codec", "preset", "name"), [("x265", "ultrafast", "hvc1.1.6.L"), ("svtav1", "12", "av01.0.")]
)
def test_other_encoders_are_matched_and_play(folder, codec, preset, name):
    words = ("--codec", codec, "--preset", preset, "--levels", "2", "--heights", "128")
    document = built(folder, codec, *words)
    (rung,) = document["rungs"]
    assert rung["codecs"].startswith(name)
    assert document["rate"] == "CRF"
    assert rung["scenes"][0]["qp"] == pytest.approx(COLOR[1], abs=1)
    with av.open(str(folder / codec / rung["name"] / "media.m3u8")) as container:
        frames = list(container.decode(video=0))
    assert (len(frames), frames[0].width, frames[0].height) == (FRAMES, WIDTH, HEIGHT)
    starts = {frame.time for frame in frames if frame.key_frame}
    assert starts >= {0, 1, 2}


def test_people_read_a_row_per_rung(folder):
    words = ("--heights", "128", "--max-rungs", "2", "--segment-s", "1")
    write(folder / "pcm.mov", sound="pcm_s16le")
    done = ladder(folder, *words, clip="pcm.mov", output="people")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("128p-jnd")]
    assert [row[-1] for row in rows] == ["kept", "above-max-rungs", "kept"]
    assert "Wrote people: 2 renditions" in done.stdout
    assert "converted to AAC: audio stream 1 (pcm_s16le)" in done.stdout
    assert "SIMULATED" in done.stdout


@pytest.mark.parametrize(
    ("words", "clip", "output", "message"),
    [
        ((), "clip.mp4", "full", "full is not empty"),
        ((), "clip.mp4", "m.onnx", "m.onnx is a file"),
        ((), "clip.mp4", "m.onnx/new", "m.onnx is no folder"),
        ((), "missing.mp4", "new", "missing.mp4 does not exist"),
        ((), "still.png", "new", "still.png is a still image"),
        ((), "hdr.mp4", "new", "HDR (PQ)"),
        (("--heights", "720"), "clip.mp4", "new", "clip.mp4 has 128 rows, and --heights names 720"),
        (("--heights", "77"), "clip.mp4", "new", "even numbers"),
        (("--heights", "32"), "clip.mp4", "new", "at least 64x64 pixels"),
        (("--min-bitrate", "9", "--max-bitrate", "8"), "clip.mp4", "new", "above --max-bitrate"),
        (("--model", "m.onnx"), "clip.mp4", "new", "two models for all heights"),
        (("--model", "720=m.onnx"), "clip.mp4", "new", "no rendition has them"),
        (("--codec", "x265", "--preset", "quick"), "clip.mp4", "new", "no preset quick"),
        (("--encoder-options", "no-such=1"), "clip.mp4", "new", "refuses an option"),
    ],
)
def test_what_cannot_be_built_is_one_sentence_and_leaves_nothing(
    folder, words, clip, output, message
):
    from PIL import Image

    (folder / "full").mkdir(exist_ok=True)
    (folder / "full" / "file").write_bytes(b"kept")
    Image.new("RGB", (64, 32)).save(folder / "still.png")
    write(folder / "hdr.mp4", color_trc=16, color_primaries=9, colorspace=9)
    before = {path for path in folder.rglob("*")}
    assert message in refusal(ladder(folder, *words, clip=clip, output=output))
    assert {path for path in folder.rglob("*")} == before


def test_a_height_without_a_model_is_named(folder):
    words = ("--heights", "128,64")
    done = ladder(folder, *words, output="new", model="128=m.onnx")
    assert "There is no model for 64 rows" in refusal(done)
