"""Measure how long a prediction takes, and what a search by trial encodes costs instead.

    python benchmarks/prediction.py      # some minutes

Each command runs in its own process, three times unless `--runs` says otherwise, each time after
all others; the fastest run counts. The clips are filmed with a virtual camera from a photograph of
scikit-image: five seconds of 1080p at 25 frames per second. The models have the published size and
random weights, which take as long as trained ones. A search probes four QPs: it encodes the clip
with x264's preset medium, decodes it, and computes XPSNR. CPU seconds are those of all processes of
a command, their start included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from results import table, write_result

SECONDS, FPS = 5, 25
SIZE = {"width": 1920, "height": 1080}
PROBES = (22, 27, 32, 37)
RUNS = 3
# Name of a clip to the options of x264 that make it.
CLIPS = {
    "delivered": {"preset": "veryfast", "crf": "18", "maxrate": "20M", "bufsize": "20M"},
    "master": {"preset": "veryfast", "crf": "4", "g": "1"},
}
SEARCH = """
import sys
import av
from laser_dist.video.codec import decode
from laser_dist.video.quality import measure_quality
from pathlib import Path

reference = decode(Path(sys.argv[1]))
for qp in map(int, sys.argv[2:]):
    with av.open("probe.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": str(qp)})
        stream.width, stream.height, stream.pix_fmt = reference.width, reference.height, "yuv420p"
        for index in range(reference.num_frames):
            frame = reference.frame(index)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    graph = av.filter.Graph()
    with av.open(sys.argv[1]) as source, av.open("probe.mp4") as probe:
        streams = [each.streams.video[0] for each in (source, probe)]
        inputs = [graph.add_buffer(template=each) for each in streams]
        xpsnr, sink = graph.add("xpsnr"), graph.add("buffersink")
        for number, each in enumerate(inputs):
            each.link_to(xpsnr, 0, number)
        xpsnr.link_to(sink)
        graph.configure()
        for pair in zip(source.decode(video=0), probe.decode(video=0)):
            for each, frame in zip(inputs, pair):
                each.push(frame)
            while True:
                try:
                    sink.pull()
                except (av.error.BlockingIOError, av.error.EOFError):
                    break
"""


@dataclass(frozen=True)
class Cost:
    """What a command takes.

    Attributes:
      wall_s: seconds until it ends.
      cpu_s: CPU seconds of its processes.
    """

    wall_s: float
    cpu_s: float


def cost_of(command: list[str], folder: Path) -> tuple[Cost, str]:
    """Run a command in a folder, and return its cost and what it prints."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, used), done.stdout


def write_clips(folder: Path) -> dict[str, float]:
    """Write the clips and a small image; return the bit rate of each clip in Mb/s."""
    import av
    from PIL import Image

    from beam_pipelines.synthetic.footage import load_photo, shipped_photographs
    from laser_dist.simulation.camera import draw_shot, film

    photo = load_photo(shipped_photographs()[0].path)
    rng = np.random.default_rng(3)
    shot = draw_shot(rng, photo.shape[1], photo.shape[0], SIZE["width"] / SIZE["height"])
    frames = film(photo, shot, num_frames=SECONDS * FPS, **SIZE)
    rates = {}
    for name, options in CLIPS.items():
        with av.open(folder / f"{name}.mp4", "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options=dict(options))
            stream.width, stream.height, stream.pix_fmt = SIZE["width"], SIZE["height"], "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())
        size = (folder / f"{name}.mp4").stat().st_size
        rates[name] = float(Fraction(8 * size, SECONDS)) / 1e6
    Image.fromarray(frames[0][:64, :64]).save(folder / "small.png")
    return rates


def write_models(folder: Path) -> None:
    """Write LAT of the published size for three levels, as `.keras`, `.onnx` and `.xml`."""
    import keras

    from laser_dist.models.autoencoder import build_autoencoder
    from laser_dist.models.heads import build_head
    from laser_dist.models.predictor_spec import PredictorSpec
    from laser_dist.models.predictors import build_predictor
    from laser_dist.models.variants import LAT
    from laser_dist.prediction.export import export_model
    from laser_dist.training.config import paper

    keras.utils.set_random_seed(0)
    config, levels = paper(LAT), (1, 2, 3)
    shape = LAT.feature_shape(config.backbone)
    backbones = [build_autoencoder(config.backbone, f"jnd{level}") for level in levels]
    heads = [
        build_head(config.head, shape, levels=1, initial_levels=[30], name=f"lat-jnd{level}")
        for level in levels
    ]
    spec = PredictorSpec(variant="lat", levels=levels, scale="QP", simulated=True)
    build_predictor(backbones, heads, spec).save(folder / "lat.keras")

    def frames_of(height: int, width: int) -> np.ndarray:
        return np.random.default_rng(0).integers(256, size=(2, height, width, 3), dtype=np.uint8)

    for to, suffix in (("onnx", "onnx"), ("openvino", "xml")):
        output = folder / f"lat.{suffix}"
        export_model(folder / "lat.keras", output, frames_of, to=to, is_trusted=True)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each command")
    parser.add_argument("--part", choices=["models"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        write_models(Path.cwd())
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, os.path.abspath(__file__), "--part", "models"], cwd=folder, check=True
        )
        rates = write_clips(folder)
        laser_jnd = [sys.executable, "-m", "laser_dist.commands.main", "predict"]
        commands = {
            **{
                f"{clip}, {model}": [*laser_jnd, f"{clip}.mp4", "--model", model]
                for clip in CLIPS
                for model in ("lat.keras", "lat.onnx", "lat.xml")
            },
            **{
                f"{clip}, search": [sys.executable, "-c", SEARCH, f"{clip}.mp4", *map(str, PROBES)]
                for clip in CLIPS
            },
            "small image, lat.onnx": [*laser_jnd, "small.png", "--model", "lat.onnx"],
        }
        costs: dict[str, list[Cost]] = {each: [] for each in commands}
        for _ in range(arguments.runs):
            for each, command in commands.items():
                costs[each].append(cost_of(command, folder)[0])
                print(each, costs[each][-1], flush=True)
        document = subprocess.run(
            [*commands["delivered, lat.onnx"], "--format", "json"],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        runtime = json.loads(document.stdout)[0]["runtime"]
    best = {
        each: Cost(min(c.wall_s for c in found), min(c.cpu_s for c in found))
        for each, found in costs.items()
    }
    rows = []
    for each, cost in best.items():
        clip = each.partition(",")[0]
        search = best.get(f"{clip}, search")
        share = None if search is None else round(search.cpu_s / cost.cpu_s, 1)
        rate = round(rates[clip], 1) if clip in rates else None
        what = each.partition(", ")[2]
        rows.append([clip, rate, what, round(cost.wall_s, 2), round(cost.cpu_s, 2), share])
    columns = ["Clip", "Mb/s", "Command", "Time (s)", "CPU (s)", "CPU of the search / CPU"]
    share, master = (
        best[f"{clip}, search"].cpu_s / best[f"{clip}, lat.onnx"].cpu_s for clip in CLIPS
    )
    write_result(
        "prediction",
        title="Predict a clip",
        simulated=False,
        summary=f"An exported model of the published size answers for a 1080p clip in "
        f"{best['delivered, lat.onnx'].wall_s:.1f} s, Keras in "
        f"{best['delivered, lat.keras'].wall_s:.1f} s. A search with four probes takes "
        f"{share:.0f} times the CPU time of the exported model, and {master:.0f} times for a "
        "master of intra frames.",
        tables=[table("Time of a command", columns, rows)],
        notes=[
            f"The exported model runs in {runtime}. Runs of each command: {arguments.runs}.",
            "The image has 64×64 pixels: its time is that of the start, of loading the model, and "
            "of one frame.",
            "The models have random weights, and the clips are filmed from a photograph.",
        ],
    )


if __name__ == "__main__":
    main()
