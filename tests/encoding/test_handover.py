"""Plans in the formats of other tools, checked in streams that the encoders wrote."""

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction

import av
import av.logging
import pytest
from av.bitstream import BitStreamFilterContext
from av.filter import Graph
from av.video.frame import PictureType
from video_clips import moving_clip

from laser_dist.encoding.encoders import EncoderSettings
from laser_dist.encoding.handover import FORMATS, WITH_CODEC, CrfPlan, qpfile, text_of
from laser_dist.encoding.plan import Plan, PlannedScene
from laser_dist.video.coded_qps import coded_qps

QPS = (20, 33, 27)
LENGTHS = (21, 20, 19)
STARTS = (0, 21, 41)
EXPECTED = [qp for qp, length in zip(QPS, LENGTHS, strict=True) for _ in range(length)]


@pytest.fixture(scope="module")
def plan():
    scenes = [
        PlannedScene(
            frames=range(start, start + length),
            start_s=start / 25,
            end_s=(start + length) / 25,
            level=qp + 0.5,
            qp=qp,
        )
        for qp, length, start in zip(QPS, LENGTHS, STARTS, strict=True)
    ]
    return Plan(
        clip="clip.mp4",
        level="jnd1",
        sur=0.75,
        margin=1.0,
        overshoot=None,
        half_width=3.24,
        simulated=False,
        scenes=tuple(scenes),
    )


@pytest.fixture(scope="module")
def clip():
    return moving_clip(sum(LENGTHS), 64, 64)


@pytest.fixture
def program(tmp_path, clip, ffmpeg):
    """Return a function that runs a program on a raw file of the clip, and returns its output.

    Of the programs, `ffmpeg` is always there.
    """
    raw = [b"YUV4MPEG2 W64 H64 F25:1 Ip A1:1 C420jpeg\n"]
    for planes in zip(clip.y, clip.u, clip.v, strict=True):
        raw += [b"FRAME\n", *(plane.tobytes() for plane in planes)]
    (tmp_path / "clip.y4m").write_bytes(b"".join(raw))

    def run(*words):
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not installed")
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return (tmp_path / words[-1]).read_bytes()

    return run


def encoded(clip, text):
    """Return the stream that `ffmpeg` would write with these options."""
    words = shlex.split(text)
    options = dict(zip(words[::2], words[1::2], strict=True))
    keyframes = {int(start) for start in re.findall(r"eq\(n,(\d+)\)", options["-force_key_frames"])}
    codec = options["-c:v"]
    name = codec.removeprefix("lib") + "-params"
    file = io.BytesIO()
    with av.open(file, "w", format="h264" if codec == "libx264" else "hevc") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        quiet = "" if codec == "libx264" else ":log-level=none"
        stream.codec_context.options = {
            "forced-idr": options["-forced-idr"],
            name: options[f"-{name}"] + quiet,
        }
        for index in range(clip.num_frames):
            frame = clip.frame(index)
            frame.pts = index
            if index in keyframes:
                frame.pict_type = PictureType.I
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def key_frames(stream):
    with av.open(io.BytesIO(stream)) as container:
        return [index for index, frame in enumerate(container.decode(video=0)) if frame.key_frame]


def slice_qps(stream):
    """Return the QP of each frame of an HEVC stream in the order of display, from slice headers.

    FFmpeg's bitstream filter trace_headers logs each syntax element. By ITU-T H.265, 7.4.7.1, the
    QP is 26 + init_qp_minus26 + slice_qp_delta. Pictures count from 0 at each IDR (type 19 or 20).
    """
    av.logging.set_level(av.logging.TRACE)
    try:
        with av.logging.Capture() as logs, av.open(io.BytesIO(stream), format="hevc") as container:
            tracing = BitStreamFilterContext("trace_headers", container.streams.video[0])
            for packet in container.demux(video=0):
                tracing.filter(packet)
    finally:
        av.logging.set_level(None)
    text = "".join(message for _, _, message in logs)
    wanted = (
        "nal_unit_type|init_qp_minus26|cu_qp_delta_enabled_flag|slice_pic_order_cnt_lsb"
        "|slice_qp_delta"
    )
    found, group, order, first = {}, -1, 0, 0
    for name, digits in re.findall(rf" ({wanted}) .*= (-?\d+)", text):
        value = int(digits)
        if name == "nal_unit_type":
            group += value in (19, 20)
            order = 0
        elif name == "init_qp_minus26":
            first = 26 + value
        elif name == "cu_qp_delta_enabled_flag":
            assert value == 0  # no other QP within a frame
        elif name == "slice_pic_order_cnt_lsb":
            order = value
        else:
            found[group, order] = first + value
    return [qp for _, qp in sorted(found.items())]


def test_frames_of_libx265_have_the_qp_of_their_scene(plan, clip):
    stream = encoded(clip, text_of(plan, "libx265"))
    assert slice_qps(stream) == EXPECTED
    assert key_frames(stream) == list(STARTS)


def test_frames_of_libx264_have_the_qp_of_their_scene_but_for_keyframes(plan, clip):
    stream = encoded(clip, text_of(plan, "libx264"))
    found = coded_qps(stream).tolist()
    assert key_frames(stream) == list(STARTS)
    assert [index for index in range(60) if found[index] != EXPECTED[index]] == [21, 41]
    # The running mean of earlier P frames.
    assert (found[21], 20 < found[41] < 33) == (20, True)


def test_ffmpeg_evaluates_the_keyframes_of_many_scenes(plan):
    starts = [0, *range(7, 1200, 2)]
    scenes = tuple(
        PlannedScene(frames=range(start, start + 1), start_s=0, end_s=1, level=20, qp=20)
        for start in starts
    )
    text = text_of(replace(plan, scenes=scenes), "libx265")
    (expression,) = re.findall(r"expr:(\S+)", text)
    # FFmpeg's filter `select` passes the frames of which the same kind of expression is not 0.
    graph = Graph()
    source = graph.add("buffer", "video_size=16x16:pix_fmt=gray:time_base=1/1:pixel_aspect=1/1")
    chosen, sink = graph.add("select", f"expr='{expression}'"), graph.add("buffersink")
    source.link_to(chosen)
    chosen.link_to(sink)
    graph.configure()
    frame = av.VideoFrame(16, 16, "gray")
    for index in range(1202):
        frame.pts, frame.time_base = index, Fraction(1)
        source.push(frame)
    source.push(None)
    found = []
    with contextlib.suppress(av.error.EOFError):
        while True:
            found.append(sink.pull().pts)
    assert found == starts


def test_x264_ignores_zones_at_constant_qp(plan, clip):
    text = text_of(plan, "libx264").replace("crf=20", "qp=24")
    assert set(coded_qps(encoded(clip, text))) == {24}


@pytest.mark.parametrize("name", ["x264", "x265"])
def test_frames_of_the_program_have_the_qp_of_their_scene(plan, program, tmp_path, name):
    (tmp_path / "keys.qp").write_text(qpfile(plan))
    words = shlex.split(text_of(plan, name, "keys.qp"))
    stream = program(name, *words, "clip.y4m", "-o", "out")
    found = coded_qps(stream).tolist() if name == "x264" else slice_qps(stream)
    assert found == EXPECTED
    assert key_frames(stream) == list(STARTS)


def test_ffmpeg_takes_the_options(plan, program):
    words = shlex.split(text_of(plan, "libx265"))
    stream = program("ffmpeg", "-y", "-i", "clip.y4m", *words, "-f", "hevc", "out")
    assert slice_qps(stream) == EXPECTED
    words = shlex.split(text_of(plan, "libx264"))
    stream = program("ffmpeg", "-y", "-i", "clip.y4m", *words, "-f", "h264", "out")
    assert coded_qps(stream)[30] == 33


def test_av1an_reads_zones_that_cover_the_clip(plan):
    # Its documentation: start_frame end_frame encoder reset(opt) video_params; the end is excluded.
    lines = text_of(plan, "av1an").splitlines()
    zones = [re.fullmatch(r"(\d+) (\d+) x264((?: --[a-z]+ [\d.]+)+)", line) for line in lines]
    assert [(int(zone[1]), int(zone[2])) for zone in zones] == [(0, 21), (21, 41), (41, 60)]
    assert [int(re.search(r"--qp (\d+)", zone[3])[1]) for zone in zones] == list(QPS)


def test_av1an_reads_scenes_with_all_options(plan):
    # The fields of its structures ScenesData, Scene and ZoneOptions; the end is excluded.
    document = json.loads(text_of(plan, "av1an-scenes"))
    assert document.keys() == {"frames", "scenes", "split_scenes"}
    assert document["frames"] == 60
    assert document["scenes"] == document["split_scenes"]
    scenes = [(each["start_frame"], each["end_frame"]) for each in document["scenes"]]
    assert scenes == [(0, 21), (21, 41), (41, 60)]
    for scene, qp in zip(document["scenes"], QPS, strict=True):
        options = scene["zone_overrides"]
        assert options.keys() == {
            "encoder", "passes", "video_params", "photon_noise", "photon_noise_height",
            "photon_noise_width", "chroma_noise", "extra_splits_len", "min_scene_len",
        }  # fmt: skip
        assert options["encoder"] == "x264"
        assert options["video_params"][:2] == ["--qp", str(qp)]


CRFS = (23.5, 40, 31)
# Codec to Av1an's names in its zones (strum) and scenes (serde), and to FFmpeg's name, preset and
# `crf-increment` in ab-av1.
NAMES = {
    "x264": ("x264", "x264", "libx264", "fast", 0.1),
    "x265": ("x265", "x265", "libx265", "medium", 0.1),
    "svtav1": ("svt-av1", "svt_av1", "libsvtav1", "8", 1),
}


def crf_plan_of(codec):
    settings = EncoderSettings(codec=codec, preset=NAMES[codec][3])
    return CrfPlan(settings=settings, crfs=CRFS, interval=(18.26, 24.74))


@pytest.mark.parametrize("codec", NAMES)
def test_av1an_reads_the_crfs_of_another_encoder(plan, codec):
    zone_name, scene_name, _, preset, _ = NAMES[codec]
    crf_plan = crf_plan_of(codec)
    starts_and_ends = [(0, 21), (21, 41), (41, 60)]
    zones = text_of(plan, "av1an", crf_plan=crf_plan).splitlines()
    document = json.loads(text_of(plan, "av1an-scenes", crf_plan=crf_plan))
    for zone, scene, crf, (start, end) in zip(
        zones, document["scenes"], CRFS, starts_and_ends, strict=True
    ):
        assert zone == f"{start} {end} {zone_name} --preset {preset} --crf {crf}"
        options = scene["zone_overrides"]
        assert options["encoder"] == scene_name
        pairs = dict(zip(options["video_params"][::2], options["video_params"][1::2], strict=True))
        assert (pairs["--preset"], float(pairs["--crf"])) == (preset, crf)
        # No other key frame in a scene: x265 and x264 take another word for it than SVT-AV1.
        assert pairs["--keyint"] == {"x264": "infinite", "x265": "-1", "svtav1": "0"}[codec]


@pytest.mark.parametrize("codec", NAMES)
def test_ab_av1_searches_the_interval_of_another_encoder(plan, codec):
    words = shlex.split(text_of(plan, "ab-av1", crf_plan=crf_plan_of(codec)))
    options = dict(zip(words[::2], words[1::2], strict=True))
    _, _, library, preset, step = NAMES[codec]
    low, high = (18, 25) if step == 1 else (18.2, 24.8)
    assert options == {
        "--encoder": library, "--pix-format": "yuv420p", "--preset": preset,
        "--min-crf": f"{low}", "--max-crf": f"{high}",
    }  # fmt: skip


def test_ab_av1_searches_the_interval_of_the_strictest_level(plan):
    words = shlex.split(text_of(plan, "ab-av1"))
    options = dict(zip(words[::2], words[1::2], strict=True))
    # The level without margin is 20.5 + 1; the interval is [18.26, 24.74], rounded outward.
    assert (options["--min-crf"], options["--max-crf"]) == ("18.2", "24.8")


def test_the_crf_that_ab_av1_searches_is_a_qp(plan, clip):
    words = shlex.split(text_of(plan, "ab-av1"))
    name, _, value = words[words.index("--enc") + 1].partition("=")
    assert name == "x264-params"
    text = f"-c:v libx264 -forced-idr 1 -force_key_frames eq(n,30) -{name} crf=29:{value}"
    assert set(coded_qps(encoded(clip, text))) == {29}


@pytest.mark.parametrize("form", sorted({*FORMATS} - {"av1an-scenes"}))
def test_texts_are_words_for_a_shell_to_divide(plan, form):
    texts = [text_of(plan, form, "keys.qp")]
    if form in WITH_CODEC:
        texts += [text_of(plan, form, crf_plan=crf_plan_of(codec)) for codec in NAMES]
    for text in texts:
        assert text.endswith("\n")
        assert not set("*?[]\"'\\$`") & set(text)


def test_a_bracket_stays_on_the_scale(plan):
    for level, expected in ((0.0, ("1.0", "4.3")), (52.0, ("49.7", "51.0"))):
        scene = PlannedScene(frames=range(9), start_s=0, end_s=1, level=level, qp=1)
        text = text_of(replace(plan, scenes=(scene,)), "ab-av1")
        assert re.search(r"--min-crf (\S+) --max-crf (\S+)", text).groups() == expected
