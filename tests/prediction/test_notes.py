"""What a model has not learned is said: clips are written with PyAV, and their facts read back."""

from fractions import Fraction

import av
import numpy as np
import pytest

from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.prediction.clips import Sampling, read_clip
from laser_dist.prediction.notes import notes_on
from laser_dist.video.containers import Damage
from laser_dist.video.facts import ClipFacts, clip_facts

QP, QF = (
    PredictorSpec(variant="lat", levels=(1,), scale=scale, simulated=True) for scale in ("QP", "QF")
)
PLAIN = ClipFacts(
    width=64, height=32, duration_s=1.0, bits=8, hdr="", interlaced=False, pixel_aspect=Fraction(1)
)


def write(
    path, *, size=(64, 32), frames=5, fps=5, pix_fmt="yuv420p", trc=None, sar=None, **options
):
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if trc is not None:
            stream.codec_context.color_trc = trc
        if sar is not None:
            stream.codec_context.sample_aspect_ratio = sar
        for index in range(frames):
            picture = np.full((size[1], size[0], 3), 50 + index % 100, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def changed(**changes):
    return ClipFacts(**(vars(PLAIN) | changes))


@pytest.mark.parametrize(
    ("settings", "facts", "notes"),
    [
        ({"trc": 16}, changed(hdr="PQ"), ("HDR (PQ), tone-mapped to SDR",)),
        (
            {"trc": 18, "pix_fmt": "yuv420p10le"},
            changed(hdr="HLG", bits=10),
            ("HDR (HLG), tone-mapped to SDR", "10 bits, judged at 8"),
        ),
        (
            {"flags": "+ildct+ilme", "x264-params": "tff=1"},
            changed(interlaced=True),
            ("interlaced, deinterlaced",),
        ),
        (
            {"sar": Fraction(4, 3)},
            changed(pixel_aspect=Fraction(4, 3)),
            ("pixels of 4:3, judged as square",),
        ),
        (
            {"size": (32, 64)},
            changed(width=32, height=64),
            ("portrait, but learned from landscape",),
        ),
        ({}, PLAIN, ()),
        ({"frames": 4}, changed(duration_s=0.8), ("0.8 s, but learned from clips of 5 s",)),
        ({"frames": 25, "fps": 1}, changed(duration_s=25), ()),
    ],
)
def test_a_video_that_differs_from_what_was_learned_has_a_note(tmp_path, settings, facts, notes):
    path = write(tmp_path / "clip.mp4", **settings)
    for source in (path, path.read_bytes()):
        assert clip_facts(source) == facts
    assert notes_on(facts, QP) == notes


def test_a_clip_that_becomes_interlaced_has_a_note(tmp_path):
    parts = [
        write(tmp_path / f"{name}.h264", frames=20, **options).read_bytes()
        for name, options in (
            ("progressive", {}),
            ("interlaced", {"flags": "+ildct+ilme", "x264-params": "tff=1"}),
        )
    ]
    sampling = Sampling(num_frames=2, width=64, height=32)
    for content, expected in ((parts[0], False), (b"".join(parts), True)):
        assert not clip_facts(content).interlaced
        facts, _ = read_clip(content, sampling, lambda part: None)
        assert facts.interlaced == expected


def test_a_still_image_has_a_note_for_a_model_of_video(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 32)).save(tmp_path / "a.png")
    facts = clip_facts(tmp_path / "a.png")
    assert facts == changed(duration_s=0)
    assert notes_on(facts, QP) == ("a still image, but learned from video",)
    assert notes_on(facts, QF) == ()


@pytest.mark.parametrize(("size", "noted"), [((64, 32), False), ((65, 32), True), ((64, 33), True)])
def test_a_clip_below_the_size_of_the_frames_has_a_note(size, noted):
    expected = ("64x32 pixels, scaled up to {}x{}".format(*size),) if noted else ()
    assert notes_on(PLAIN, QP, frame_size=size) == expected


@pytest.mark.parametrize("learned", range(4))
@pytest.mark.parametrize("given", range(4))
def test_each_other_resolution_of_videoset_has_a_note(learned, given):
    sizes = ["640x360", "960x540", "1280x720", "1920x1080"]
    width, height = map(int, sizes[given].split("x"))
    spec = PredictorSpec(
        variant="lat", levels=(1,), scale="QP", simulated=True, resolution=sizes[learned]
    )
    note = f"{sizes[given]} pixels, but learned from {sizes[learned]}"
    # Letterboxed, it is the same resolution.
    for rows in (height, round(height * 0.75)):
        found = notes_on(changed(width=width, height=rows), spec, frame_size=(640, 352))
        expected = () if given == learned else (note.replace(f"x{height} ", f"x{rows} ", 1),)
        assert found == expected


@pytest.mark.parametrize("resolution", ["", "640", "640x", "0x360", "640x360x1", "9999999x1"])
def test_a_malformed_resolution_is_refused(resolution):
    with pytest.raises(ValueError, match="resolution must be like 640x360"):
        PredictorSpec(variant="lat", levels=(1,), scale="QP", simulated=True, resolution=resolution)


def test_damage_has_a_note():
    damage = Damage(num_concealed=3, num_lost=1, is_truncated=True)
    assert notes_on(PLAIN, QP, damage=damage) == (
        "truncated, judged by what is there",
        "3 damaged frames concealed",
        "1 damaged frame left out",
    )
