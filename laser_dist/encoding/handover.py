"""A plan in the formats of other tools: x264, x265, FFmpeg, Av1an and ab-av1.

Av1an and ab-av1 can also run an encoder at the CRFs that match the plan (`CrfPlan`).

The QP of a scene is set by a zone. The encoders read zones by rules that they do not document, and
that the tests check in encoded streams:

- x264 ignores zones at constant QP: `validate_parameters` in its `encoder/encoder.c` limits all
  quantizers to those of the frame types. In CRF mode, a zone sets the QP of P frames, and B frames
  have the mean of their references. A keyframe has the running mean of the P frames before it, from
  the scene before, unless a qpfile sets it.
- x265 counts the frames of zones from 1 and in encoding order (`RateControl::getZone` in its
  `encoder/ratecontrol.cpp`). An IDR frame starts each scene, so the orders agree at its bounds.
  x265's zone files cannot set a quantizer, and are not read by its library.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laser_dist.encoding.encoders import EncoderSettings
    from laser_dist.encoding.plan import Plan, PlannedScene

FORMATS = ("x264", "x265", "libx264", "libx265", "av1an", "av1an-scenes", "ab-av1")
"""Options of x264, x265, FFmpeg with libx264 or libx265, and ab-av1; or a zones or scenes file of
Av1an."""

WITH_QPFILE = ("x264", "x265")
"""Formats that need a qpfile, too."""

WITH_CODEC = ("av1an", "av1an-scenes", "ab-av1")
"""Formats for any encoder."""

# With these, CRF is the QP of all frames, and that of a zone is the QP of its P and B frames.
_X264_RATE_CONTROL = "qcomp=1:ipratio=1:pbratio=1:aq-mode=0:mbtree=0"
# Scenes start with keyframes and last 10 s at most; x264 would give more keyframes another QP.
_X264_KEYFRAMES = "keyint=infinite:scenecut=0"
# Steps of ab-av1's search: `default_crf_increment` in its src/command/args/encode.rs. With SVT-AV1
# 4 it searches quarters, between any bounds.
_CRF_STEPS = {"x264": 0.1, "x265": 0.1, "svtav1": 1.0}
# Encoders by the names in Av1an's zones files, where they differ from ours; those in its scenes
# files have an underscore.
_AV1AN_NAMES = {"svtav1": "svt-av1"}
# What Av1an itself sets, so that a chunk, which is a scene, has one key frame. A scenes file must
# have it: see `get_default_arguments` in its av1an-core/src/encoder/mod.rs.
_ONE_KEY_FRAME = {
    "x264": ("--keyint", "infinite", "--scenecut", "0"),
    "x265": ("--output-depth", "8", "--keyint", "-1", "--scenecut", "0"),
    "svtav1": ("--keyint", "0", "--scd", "0", "--rc", "0"),
}


@dataclass(frozen=True, kw_only=True)
class CrfPlan:
    """The CRFs that match a plan, for an encoder other than x264 at VideoSet's settings.

    Attributes:
      settings: the encoder and its preset.
      crfs: CRF of each scene of the plan.
      interval: CRFs at the finer and the coarser end of `qp_interval`.
    """

    settings: EncoderSettings
    crfs: tuple[float, ...]
    interval: tuple[float, float]


def qp_interval(plan: Plan) -> tuple[float, float]:
    """Return the interval of the strictest scene's level, without the margin of the plan, in QP."""
    level = min(each.level for each in plan.scenes) + plan.margin
    return level - plan.half_width, level + plan.half_width


def text_of(
    plan: Plan, form: str, qpfile_path: str = "", *, crf_plan: CrfPlan | None = None
) -> str:
    """Return a plan in a format; lines end with a newline.

    Args:
      plan: the plan.
      form: one of `FORMATS`.
      qpfile_path: path of the qpfile, for formats in `WITH_QPFILE`.
      crf_plan: for formats in `WITH_CODEC`, for another encoder; None for x264 at constant QPs.
    """
    match form:
        case "x264":
            return f"{x264_options(plan, qpfile_path)}\n"
        case "x265":
            return f"{x265_options(plan, qpfile_path)}\n"
        case "libx264":
            return f"{libx264_options(plan)}\n"
        case "libx265":
            return f"{libx265_options(plan)}\n"
        case "ab-av1":
            return f"{ab_av1_options(plan, crf_plan)}\n"
        case "av1an":
            return av1an_zones(plan, crf_plan)
        case "av1an-scenes":
            return av1an_scenes(plan, crf_plan)
        case _:
            raise ValueError(f"form must be one of {FORMATS}, got {form!r}")


def qpfile(plan: Plan) -> str:
    """Return a qpfile for x264 or x265: a keyframe at the start of each scene, with its QP.

    Source: `x264 --fullhelp` and x265's documentation: a line is `framenumber frametype QP`, with
    K for a keyframe.
    """
    return "".join(f"{each.frames.start} K {each.qp}\n" for each in plan.scenes)


def x264_options(plan: Plan, qpfile_path: str) -> str:
    """Return options of the program x264: all frames of a scene have its QP.

    Args:
      plan: the plan.
      qpfile_path: path of the file that `qpfile` returns the content of.

    Source: `x264 --fullhelp`: a zone is `start frame,end frame,q=QP`, both frames included.
    """
    # With an output of more bits, x264 counts QPs from another zero.
    return (
        f"--crf {_finest(plan)} --qcomp 1 --ipratio 1 --pbratio 1 --aq-mode 0 --no-mbtree"
        " --keyint infinite --no-scenecut --output-depth 8"
        f" --zones {_x264_zones(plan)} --qpfile {qpfile_path}"
    )


def libx264_options(plan: Plan) -> str:
    """Return output options of FFmpeg for x264: P and B frames of a scene have its QP.

    A keyframe has x264's running mean of the QPs of the P frames before, and the first one has the
    QP of its scene: FFmpeg does not pass qpfiles on.

    Source: FFmpeg's documentation of `-force_key_frames`, where n is the number of the frame, and
    of libx264; otherwise as `x264_options`.
    """
    return (
        f"-c:v libx264 -pix_fmt yuv420p {_ffmpeg_options(plan)} -x264-params"
        f" crf={_finest(plan)}:{_X264_RATE_CONTROL}:{_X264_KEYFRAMES}:zones={_x264_zones(plan)}"
    )


def x265_options(plan: Plan, qpfile_path: str) -> str:
    """Return options of the program x265: all frames of a scene have its QP.

    The QP is the one for x264. HEVC and H.264 have the same quantizer steps, but viewers have not
    judged x265.

    Args:
      plan: the plan.
      qpfile_path: path of the file that `qpfile` returns the content of.

    Source: x265's documentation of `--zones`, `start frame,end frame,q=QP`; this module's
    docstring says which frames it counts.
    """
    return (
        f"--qp {_finest(plan)} --ipratio 1 --pbratio 1 --no-open-gop --zones {_x265_zones(plan)}"
        f" --qpfile {qpfile_path}"
    )


def libx265_options(plan: Plan) -> str:
    """Return output options of FFmpeg for x265: all frames of a scene have its QP.

    Source: as `libx264_options` and `x265_options`.
    """
    return (
        f"-c:v libx265 {_ffmpeg_options(plan)} -x265-params"
        f" qp={_finest(plan)}:ipratio=1:pbratio=1:open-gop=0:zones={_x265_zones(plan)}"
    )


def av1an_zones(plan: Plan, crf_plan: CrfPlan | None = None) -> str:
    """Return a zones file of Av1an, which encodes each scene at its QP or CRF.

    Zones start scenes, too, and keep the encoder options of Av1an's command line.

    Source: Av1an's site/src/Cli/encoding.md: `start_frame end_frame encoder video_params`, the end
    excluded. Its parser takes the word after each option for its value.
    """
    encoder = _av1an_name(crf_plan)
    return "".join(
        f"{each.frames.start} {each.frames.stop} {encoder} {' '.join(options)}\n"
        for each, options in zip(plan.scenes, _av1an_options(plan, crf_plan), strict=True)
    )


def av1an_scenes(plan: Plan, crf_plan: CrfPlan | None = None) -> str:
    """Return a scenes file of Av1an: scenes, and all options of the encoder for each.

    With it, Av1an searches no scenes, and reads neither zones nor the encoder options of its
    command line.

    Source: `ScenesData`, `Scene` and `ZoneOptions` in Av1an's av1an-core/src/scenes.rs. All keys
    that are not optional there must be given.
    """
    codec = crf_plan.settings.codec if crf_plan else ""
    scenes = [
        {
            "start_frame": each.frames.start,
            "end_frame": each.frames.stop,  # excluded
            "zone_overrides": {
                "encoder": _av1an_name(crf_plan).replace("-", "_"),
                "passes": 1,
                "video_params": [*options, *_ONE_KEY_FRAME.get(codec, ())],
                "photon_noise": None,
                "photon_noise_height": None,
                "photon_noise_width": None,
                "chroma_noise": False,
                "extra_splits_len": None,
                "min_scene_len": len(each.frames),
            },
        }
        for each, options in zip(plan.scenes, _av1an_options(plan, crf_plan), strict=True)
    ]
    frames = plan.scenes[-1].frames.stop
    return json.dumps({"frames": frames, "scenes": scenes, "split_scenes": scenes}, indent=1) + "\n"


def ab_av1_options(plan: Plan, crf_plan: CrfPlan | None = None) -> str:
    """Return options of `ab-av1 crf-search`: the interval of the strictest scene's level.

    The margin of the plan is not subtracted. Without CRFs, the options make x264's CRF a constant
    QP; otherwise the two are different scales.

    Source: ab-av1's src/command/crf_search.rs and src/command/args/encode.rs.
    """
    from laser_dist.encoding.encoders import CODECS

    codec, own = "x264", f"--enc x264-params={_X264_RATE_CONTROL}"
    finest, coarsest = qp_interval(plan)
    if crf_plan is not None:
        codec, own = crf_plan.settings.codec, f"--preset {crf_plan.settings.preset}"
        finest, coarsest = crf_plan.interval
    step = _CRF_STEPS[codec]
    low = max(math.floor(finest / step) * step, 1)
    high = min(math.ceil(coarsest / step) * step, CODECS[codec].coarsest)
    digits = 0 if step == 1 else 1
    return (
        f"--encoder {CODECS[codec].library} --pix-format yuv420p {own}"
        f" --min-crf {low:.{digits}f} --max-crf {high:.{digits}f}"
    )


def _av1an_name(crf_plan: CrfPlan | None) -> str:
    codec = crf_plan.settings.codec if crf_plan else "x264"
    return _AV1AN_NAMES.get(codec, codec)


def _av1an_options(plan: Plan, crf_plan: CrfPlan | None) -> list[list[str]]:
    """Return the options of the encoder for each scene."""
    if crf_plan is None:
        return [["--qp", str(each.qp), "--ipratio", "1", "--pbratio", "1"] for each in plan.scenes]
    preset = str(crf_plan.settings.preset)
    return [["--preset", preset, "--crf", f"{crf:g}"] for crf in crf_plan.crfs]


def _finest(plan: Plan) -> int:
    return min(each.qp for each in plan.scenes)


def _x264_zones(plan: Plan) -> str:
    return "/".join(_zone(each, each.frames.start) for each in plan.scenes)


def _x265_zones(plan: Plan) -> str:
    return "/".join(_zone(each, each.frames.start + 1) for each in plan.scenes)


def _zone(scene: PlannedScene, start: int) -> str:
    return f"{start},{start + len(scene.frames) - 1},q={scene.qp}"


def _ffmpeg_options(plan: Plan) -> str:
    """Return options that keep the frames as they are counted, and start scenes with IDR frames."""
    starts = _any_of([f"eq(n,{each.frames.start})" for each in plan.scenes])
    return f"-fps_mode passthrough -force_key_frames expr:{starts} -forced-idr 1"


def _any_of(terms: list[str]) -> str:
    """Return the sum of terms in nested halves: FFmpeg limits the depth of an expression.

    FFmpeg 8.1 refuses a plain sum of 300 terms.
    """
    if len(terms) == 1:
        return terms[0]
    middle = len(terms) // 2
    parts = (terms[:middle], terms[middle:])
    return "+".join(f"({_any_of(part)})" if len(part) > 1 else part[0] for part in parts)
