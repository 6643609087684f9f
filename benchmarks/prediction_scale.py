"""Compare `laser-jnd predict --runner DirectRunner` on all cores with the plain command on one.

    python benchmarks/prediction_scale.py      # some minutes

The clips are filmed with a virtual camera from photographs of scikit-image: two seconds of 1080p,
encoded by x264. The model is LAT of the published size with random weights, exported for ONNX
Runtime. Both commands run in turn, three times, and the fastest run of each counts. Their rows are
compared. The time of a command includes its start, which the number of clips divides; so the time
for one clip is subtracted, too, for the speed without the start.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prediction import Cost, write_models
from results import table, write_result

SECONDS, FPS = 2, 25
SIZE = {"width": 1920, "height": 1080}
RUNS = 3
MODEL = "lat.onnx"
PREDICT = (sys.executable, "-m", "laser_dist.commands.main", "predict")


def write_clips(folder: Path, count: int) -> None:
    """Write clips of a few photographs, the same again if more are wanted."""
    import av
    import numpy as np

    from beam_pipelines.synthetic.footage import load_photo, shipped_photographs
    from laser_dist.simulation.camera import draw_shot, film

    folder.mkdir()
    photographs = shipped_photographs()[:4]
    for number in range(count):
        path = folder / f"{number:04}.mp4"
        if number >= len(photographs):
            shutil.copyfile(folder / f"{number % len(photographs):04}.mp4", path)
            continue
        photo = load_photo(photographs[number].path)
        rng = np.random.default_rng(number)
        shot = draw_shot(rng, photo.shape[1], photo.shape[0], SIZE["width"] / SIZE["height"])
        with av.open(path, "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = SIZE["width"], SIZE["height"], "yuv420p"
            for frame in film(photo, shot, num_frames=SECONDS * FPS, **SIZE):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())


def cost_of(words: list[str], folder: Path, cores: set[int]) -> Cost:
    """Run `laser-jnd predict` on some cores and return its cost."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [*PREDICT, *words, "--model", MODEL],
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stderr}")
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, used)


def same_rows(lines: Path, tables: Path) -> bool:
    """Return whether both commands predicted the same quantizers and levels."""
    import pyarrow.parquet as pq

    plain = [json.loads(line) for line in lines.read_text().splitlines()]
    rows = pq.read_table(tables).to_pylist()
    keys = ("clip", "quantizers", "levels")
    return [[each[key] for key in keys] for each in plain] == [
        [each[key] for key in keys] for each in rows
    ]


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=120, help="(default: %(default)s)")
    parser.add_argument("--part", choices=["models"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        write_models(Path.cwd())
        return
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = os.path.abspath(__file__)
        subprocess.run([sys.executable, script, "--part", "models"], cwd=folder, check=True)
        write_clips(folder / "clips", arguments.clips)
        found: dict[tuple[str, int], list[Cost]] = {}
        same = True
        for _ in range(RUNS):
            for count, pattern in ((1, "clips/0000.mp4"), (arguments.clips, "clips/*.mp4")):
                plain = [pattern, "--format", "ndjson", "--output", "levels.ndjson"]
                cost = cost_of(plain, folder, {cores[0]})
                found.setdefault(("plain", count), []).append(cost)
                shutil.rmtree(folder / "levels", ignore_errors=True)
                beam = [pattern, "--runner", "DirectRunner", "--workers", str(len(cores))]
                cost = cost_of([*beam, "--output", "levels"], folder, set(cores))
                found.setdefault(("beam", count), []).append(cost)
                same = same and same_rows(folder / "levels.ndjson", folder / "levels")
                print({each: costs[-1] for each, costs in found.items()}, same, flush=True)
    last = arguments.clips
    wall = {each: min(cost.wall_s for cost in costs) for each, costs in found.items()}
    cpu = {each: min(cost.cpu_s for cost in costs) for each, costs in found.items()}
    rows = []
    for what, name, used in (
        ("plain", "plain", 1),
        (f"--runner DirectRunner --workers {len(cores)}", "beam", len(cores)),
    ):
        times = [round(wall[name, 1], 2), round(wall[name, last], 1)]
        cpus = [round(cpu[name, 1], 2), round(cpu[name, last], 1)]
        rows.append([what, used, *times, *cpus])
    total = wall["plain", last] / wall["beam", last]
    gain = (wall["plain", last] - wall["plain", 1]) / (wall["beam", last] - wall["beam", 1])
    columns = ["Command", "Cores", "One clip (s)", "All clips (s)"]
    columns += ["One clip (CPU s)", "All clips (CPU s)"]
    write_result(
        "prediction_scale",
        title="Predict many clips",
        simulated=False,
        summary=f"On {len(cores)} cores, the pipeline predicts {last} clips {total:.2f} times as "
        f"fast as the plain command on one core, the start included, and {gain:.2f} times "
        f"without the start. The rows are {'the same' if same else 'DIFFERENT'}.",
        tables=[table(f"Time for {last} clips", columns, rows)],
        notes=[
            "The clips have two seconds of 1080p. The model has random weights and runs in ONNX "
            "Runtime.",
            f"The fastest of {RUNS} runs of each command, in turn.",
        ],
    )


if __name__ == "__main__":
    main()
