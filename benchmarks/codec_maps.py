"""Fit which CRF of other encoders has the quality of x264 at a QP, and measure the error.

    python benchmarks/codec_maps.py      # 10 minutes

The clips are filmed with a virtual camera from the photographs that scikit-image ships. Two thirds
of them fit the maps, which are written to `laser_dist/encoding/codec_maps.json`; on the others, the
search with at most two trial encodes is compared with a full search: the XPSNR of all CRFs of a
grid, interpolated. A map has the drop of XPSNR from CRF to CRF in the median clip, and a line
through the drops of equal XPSNR over the QPs of x264.
"""

import datetime
import json
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from results import table, write_result

QPS = (22, 27, 32, 37)
GRIDS = {"x264": range(14, 42, 4), "x265": range(12, 42, 4), "svtav1": range(2, 64, 3)}
PRESETS = {"x264": "medium", "x265": "medium", "svtav1": "8"}
CLIPS, NUM_FRAMES, FPS, SIZE = 60, 30, 25, {"width": 320, "height": 180}


# Encodes with SVT-AV1, which writes its version to standard error.
SVT_AV1 = """
import av
context = av.codec.context.CodecContext.create("libsvtav1", "w")
context.width = context.height = 64
context.pix_fmt, context.framerate = "yuv420p", 25
context.open()
"""


def encoder_versions() -> dict[str, str]:
    """Return the versions of the encoders that run here, as they state them."""
    from laser_dist.encoding.encoders import CODECS

    found = {}
    for name, pattern in (
        ("x264", rb"x264 - core (\d+)"),
        ("x265", rb"x265 \(build \d+\) - ([^:]+):"),
    ):
        context = av.codec.context.CodecContext.create(CODECS[name].library, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width = context.height = 64
        context.pix_fmt, context.framerate = "yuv420p", Fraction(25)
        packets = [*context.encode(av.VideoFrame(64, 64, "yuv420p")), *context.encode(None)]
        match = re.search(pattern, b"".join(map(bytes, packets)))
        assert match, name
        found[name] = match[1].decode()
    done = subprocess.run(
        [sys.executable, "-c", SVT_AV1],
        env={**os.environ, "SVT_LOG": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    match = re.search(r"SVT-AV1 Encoder Lib v?(\S+)", done.stderr + done.stdout)
    assert match, "svtav1"
    return {**found, "svtav1": match[1]}


def main() -> None:
    """Run the script."""
    from beam_pipelines.synthetic.footage import load_photo, shipped_photographs
    from laser_dist.encoding import matching
    from laser_dist.encoding.encoders import CODECS, EncoderSettings
    from laser_dist.simulation.camera import draw_shot, film
    from laser_dist.video.codec import decode, encode_h264
    from laser_dist.video.frames import Clip
    from laser_dist.video.quality import xpsnr_db

    photos = [load_photo(each.path) for each in shipped_photographs()]
    rng = np.random.default_rng(11)
    settings = {name: EncoderSettings(codec=name, preset=PRESETS[name]) for name in GRIDS}
    clips, targets = [], []
    curves: dict[str, list[list[float]]] = {name: [] for name in GRIDS}
    for index in range(CLIPS):
        photo = photos[index % len(photos)]
        shot = draw_shot(rng, photo.shape[1], photo.shape[0], SIZE["width"] / SIZE["height"])
        clip = Clip.from_rgb(film(photo, shot, num_frames=NUM_FRAMES, **SIZE), Fraction(FPS))
        clips.append(clip)
        targets.append([xpsnr_db(clip, decode(encode_h264(clip, qp=qp))) for qp in QPS])
        for name, grid in GRIDS.items():
            found = [xpsnr_db(clip, matching.encoded(clip, settings[name], crf)) for crf in grid]
            curves[name].append([*np.minimum.accumulate(found)])  # which noise may reverse
        print(f"{index + 1}/{CLIPS}", flush=True)
    rows, maps = [], {}
    for name, grid in GRIDS.items():
        # XPSNR falls with the CRF; np.interp needs ascending values.
        exact = np.array([
            np.interp(-np.array(target), -np.array(curve), list(grid), left=np.nan, right=np.nan)
            for target, curve in zip(targets, curves[name], strict=True)
        ])  # fmt: skip
        is_held_out = np.arange(CLIPS) % 3 == 2
        fitted = exact[~is_held_out]
        known = ~np.isnan(fitted)
        steps = np.median(-np.diff(np.array(curves[name])[~is_held_out], axis=1), axis=0)
        assert np.all(steps > 0), f"{name}: XPSNR does not fall with the CRF"
        drops = np.concatenate([[0.0], np.cumsum(steps)])
        qps = np.tile(QPS, (len(fitted), 1))[known]
        per_qp, at_qp_0 = np.polyfit(qps, np.interp(fitted[known], list(grid), drops), 1)
        maps[name] = {
            "crfs": [float(crf) for crf in grid],
            "drops_db": [round(float(drop), 3) for drop in drops],
            "db_per_qp": round(float(per_qp), 4),
            "db_at_qp_0": round(float(at_qp_0), 3),
        }
        prior = matching.CodecMap(**maps[name])
        errors, probes, first = [], [], []
        for index in np.flatnonzero(is_held_out):
            for at, qp in enumerate(QPS):
                if np.isnan(exact[index][at]):  # no CRF has this XPSNR
                    continue
                match = matching.search(
                    targets[index][at],
                    lambda crf, index=index, name=name: xpsnr_db(
                        clips[index], matching.encoded(clips[index], settings[name], crf)
                    ),
                    qp=qp,
                    prior=prior,
                    coarsest=CODECS[name].coarsest,
                )
                errors.append(abs(match.crf - exact[index][at]))
                probes.append(match.num_probes)
                first.append(abs(prior.crf_with(prior.drop_at_qp(qp)) - exact[index][at]))
        rows.append([
            name, PRESETS[name], *(round(float(value), 2) for value in (
                np.median(first), np.median(errors), np.percentile(errors, 90), np.mean(probes)
            )),
        ])  # fmt: skip
    path = Path(__file__).parents[1] / "laser_dist" / "encoding" / "codec_maps.json"
    document = {
        "date": f"{datetime.date.today():%Y-%m}",
        "ffmpeg": av.ffmpeg_version_info,
        "encoders": encoder_versions(),
        "presets": PRESETS,
        "maps": maps,
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    write_result(
        "codec_maps",
        title="CRF of other encoders",
        simulated=False,
        summary="With at most two trial encodes, the CRF with the XPSNR of x264 at a QP is off by "
        + ", ".join(f"{row[3]} ({row[0]})" for row in rows)
        + " in the median of held-out clips.",
        tables=[
            table(
                f"Difference from a full search, {CLIPS // 3} held-out clips at QP "
                + ", ".join(map(str, QPS)),
                [
                    "Encoder",
                    "Preset",
                    "Without trials, median (CRF)",
                    "Median (CRF)",
                    "90th percentile (CRF)",
                    "Trials",
                ],
                rows,
            )
        ],
        notes=[
            f"Clips of {NUM_FRAMES} frames of {SIZE['width']}×{SIZE['height']}, filmed from"
            f" photographs; {CLIPS - CLIPS // 3} others fit the maps.",
        ],
    )


if __name__ == "__main__":
    main()
