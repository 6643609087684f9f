"""Measure what a build costs in addition to the codecs' own work. Takes some minutes.

    python benchmarks/build.py              # cost, speedup by two processes, memory
    python benchmarks/build.py --rates      # the constants of beam_pipelines.dataset.build_cost
    python benchmarks/build.py --measure    # decode and measure, compared with an earlier commit

Clips are 640x360, 30 frames, from the bundled photographs, encoded at five QPs. The levels are made
up and mostly fall between these QPs, so the build re-encodes them. The bare loop does the same
encodes, decodes and measurements with PyAV and NumPy in one process, and writes nothing. CPU
seconds are those of all processes of a command, including their startup. Machines are noisy:
compare only values of one run.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from results import add_tables, table, write_result

SIZE = (640, 360)
FRAME_SIZE = (640, 352)
NUM_FRAMES = 30
QPS = (22, 27, 32, 37, 42)
POLL_S = 0.2
BASELINE = "806e1d9"  # the last commit that copied each frame for FFmpeg
MEASURED = "Decoding and measuring"  # start of the caption of `--measure`
MEASURE = """
import json, sys, time
from fractions import Fraction
from pathlib import Path
from laser_dist.video.codec import decode
from laser_dist.video.quality import measure_quality

fps, size = Fraction(30000, 1001), {"width": 640, "height": 352}
first, second = (Path(path).read_bytes() for path in sys.argv[1:])
reference = decode(first, fps=fps)
reference_rgb = reference.rgb_frames(**size)
costs = []
for _ in range(3):
    times = [time.process_time()]
    clip = decode(second, fps=fps)
    times.append(time.process_time())
    rgb = clip.rgb_frames(**size)
    measure_quality(reference, clip, reference_rgb=reference_rgb, distorted_rgb=rgb)
    times.append(time.process_time())
    costs.append([1000 * (after - before) / clip.num_frames
                  for before, after in zip(times, times[1:])])
print(json.dumps([min(cost) for cost in zip(*costs)]))
"""


@dataclass
class Usage:
    """Resources used by a command and its descendants."""

    wall_s: float = 0.0
    peak_bytes: int = 0
    cpu_s_of: dict[int, float] = field(default_factory=dict)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all processes, each as of its last sample."""
        return sum(self.cpu_s_of.values())


def run_measured(command: list[str]) -> Usage:
    """Run a command and sample its processes until it exits."""
    usage = Usage()
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    exited = threading.Event()
    sampler = threading.Thread(target=_sample, args=(process.pid, usage, exited))
    sampler.start()
    status = process.wait()
    usage.wall_s = time.monotonic() - started
    exited.set()
    sampler.join()
    if status:
        sys.exit(f"Exit status {status}: {' '.join(command)}")
    return usage


def _sample(pid: int, usage: Usage, exited: threading.Event) -> None:
    while not exited.wait(POLL_S):
        total = 0
        try:
            processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for each in processes:
            try:
                times = each.cpu_times()
                total += each.memory_full_info().pss
            except psutil.Error:  # it has exited
                continue
            usage.cpu_s_of[each.pid] = times.user + times.system
        usage.peak_bytes = max(usage.peak_bytes, total)


def make_clips(folder: Path, num_sources: int, num_frames: int = NUM_FRAMES) -> None:
    """Write encoded clips in VideoSet's layout, and made-up labels."""
    from multiprocessing import Pool

    from laser_dist.jnd.videoset_labels import format_videoset_labels, label_file_name

    with Pool() as pool:
        jobs = [(folder, number, num_frames) for number in range(1, num_sources + 1)]
        sources = pool.starmap(_make_source, jobs)
    for level in range(3):
        name = label_file_name("{}x{}".format(*SIZE), level)
        (folder / name).write_text(format_videoset_labels(sources, level))


def _make_source(folder: Path, number: int, num_frames: int) -> object:
    import numpy as np

    from beam_pipelines.synthetic.footage import load_photo, shipped_photographs
    from laser_dist.jnd.videoset_labels import LevelLabel, SourceLabels
    from laser_dist.jnd.videoset_layout import FRAME_RATES, ClipName
    from laser_dist.simulation.camera import draw_shot, film
    from laser_dist.video.codec import encode_h264
    from laser_dist.video.frames import Clip

    rng = np.random.default_rng(number)
    footage = shipped_photographs()
    photo = load_photo(footage[number % len(footage)].path)
    shot = draw_shot(rng, photo.shape[1], photo.shape[0], SIZE[0] / SIZE[1])
    frames = film(photo, shot, num_frames=num_frames, width=SIZE[0], height=SIZE[1])
    clip = Clip.from_rgb(frames, FRAME_RATES[30])
    for qp in (0, *QPS):
        name = ClipName(source_index=number, width=SIZE[0], height=SIZE[1], rate=30, qp=qp)
        path = folder / name.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_h264(clip, qp=qp))
    levels = []
    for level in (24 + number % 3, 29 + number % 3, 34 + number % 3):
        samples = (level, level + 2)
        deviation = float(np.std(samples, ddof=1))
        anchor = levels[-1].jnd if levels else 0.0
        levels.append(LevelLabel(float(level), level + 1.0, anchor, samples, 1, deviation))
    return SourceLabels(name.source_id, tuple(levels))


def build(manual_dir: Path, data_dir: Path, workers: int) -> Usage:
    """Run `laser-jnd build` as a user does."""
    shutil.rmtree(data_dir, ignore_errors=True)
    where = ["--manual-dir", str(manual_dir), "--data-dir", str(data_dir)]
    command = [sys.executable, "-m", "laser_dist.commands.main", "build", "videoset_jnd"]
    return run_measured([*command, *where, "--config", "360p", "--workers", str(workers)])


def bare_loop(folder: Path) -> None:
    """Do the same work with PyAV and NumPy in one process, and write nothing."""
    levels: dict[int, set[int]] = defaultdict(set)
    for suffix in ("1st", "2nd", "3rd"):
        with (folder / f"{SIZE[0]}x{SIZE[1]}_{suffix}.csv").open() as file:
            for row in csv.DictReader(file):
                levels[int(row["sequence_index"])].add(round(float(row["jnd"])))
    for source_folder in sorted(folder.glob("videoSRC*")):
        number = int(source_folder.name[8:11])
        files = {int(path.stem[-2:]): path for path in source_folder.glob("*.264")}
        _bare_source(files, levels[number])


def _bare_source(files: dict[int, Path], levels: set[int]) -> None:
    reference = _bare_decode(files[0].read_bytes())
    reference_rgb = [_bare_rgb(frame) for frame in reference]
    _bare_activity([_bare_luma(frame) for frame in reference])
    for qp in sorted({*files, *levels} - {0}):
        stream = files[qp].read_bytes() if qp in files else _bare_encode(reference, qp)
        frames = _bare_decode(stream)
        for one, other in zip(reference, frames, strict=True):
            _bare_psnr(_bare_luma(one), _bare_luma(other))
        for one, frame in zip(reference_rgb, frames, strict=True):
            _bare_psnr(one, _bare_rgb(frame))
        _bare_filters(reference, frames)


def _bare_decode(stream: bytes) -> list:
    import io

    import av

    with av.open(io.BytesIO(stream), options={"framerate": "30000/1001"}) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return list(container.decode(video=0))


def _bare_encode(frames: list, qp: int) -> bytes:
    from fractions import Fraction

    from av.codec.context import CodecContext

    from laser_dist.video.codec import VIDEOSET, x264_params

    encoder = CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = *SIZE, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(30000, 1001), Fraction(1001, 30000)
    encoder.thread_count = 1
    encoder.options = {"x264-params": x264_params(VIDEOSET, qp)}
    packets = []
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = index, Fraction(1001, 30000)
        frame.pict_type = 0
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return b"".join([*packets, *(bytes(packet) for packet in encoder.encode(None))])


def _bare_luma(frame: object) -> object:
    import numpy as np

    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: SIZE[1], : SIZE[0]]


def _bare_rgb(frame: object) -> object:
    from laser_dist.video.frames import SCALER_FLAGS

    return frame.reformat(
        *FRAME_SIZE,
        format="rgb24",
        src_colorspace="ITU709",
        src_color_range="MPEG",
        dst_color_range="JPEG",
        interpolation=SCALER_FLAGS,
        threads=1,
    ).to_ndarray()


def _bare_psnr(one: object, other: object) -> float:
    import numpy as np

    error = np.subtract(one, other, dtype=np.int32).ravel()
    squared = int(np.einsum("i,i->", error, error, dtype=np.int64))
    return float(10 * np.log10(255**2 * error.size / squared)) if squared else 100.0


def _bare_activity(luma: list) -> None:
    import numpy as np
    from scipy.ndimage import sobel

    before = None
    for plane in luma:
        values = plane.astype(np.float64)
        np.hypot(sobel(values, 0), sobel(values, 1))[1:-1, 1:-1].std()
        if before is not None:
            (values - before).std()
        before = values


def _bare_filters(reference: list, frames: list) -> None:
    import contextlib

    from av.error import BlockingIOError as NoFrameYet
    from av.error import EOFError as NoFrameLeft
    from av.filter import Graph

    text = "video_size={}x{}:pix_fmt=yuv420p:time_base=1001/30000:frame_rate=30000/1001".format(
        *SIZE
    )
    for name, clips in (("ssim", (frames, reference)), ("xpsnr", (reference, frames))):
        graph = Graph()
        graph.threads = 1
        inputs = graph.add("buffer", text), graph.add("buffer", text)
        compared, sink = graph.add(name), graph.add("buffersink")
        for index, entry in enumerate(inputs):
            entry.link_to(compared, 0, index)
        compared.link_to(sink)
        graph.configure()
        for index, pair in enumerate(zip(*clips, strict=True)):
            for entry, frame in zip(inputs, pair, strict=True):
                frame.pts = index
                entry.push(frame)
            with contextlib.suppress(NoFrameYet, NoFrameLeft):
                while True:
                    dict(sink.pull().metadata)
        for entry in inputs:
            entry.push(None)
        with contextlib.suppress(NoFrameYet, NoFrameLeft):
            while True:
                dict(sink.pull().metadata)


def print_rates() -> None:
    """Fit the constants of `beam_pipelines.dataset.build_cost`."""
    import numpy as np

    from beam_pipelines.synthetic.footage import load_photo, shipped_photographs
    from laser_dist.jnd.videoset_layout import FRAME_RATES
    from laser_dist.simulation.camera import draw_shot, film
    from laser_dist.video.codec import decode, encode_h264
    from laser_dist.video.frames import Clip
    from laser_dist.video.quality import measure_quality

    num_frames, width, height = 6, *FRAME_SIZE
    rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for columns, lines in ((256, 144), (640, 360), (1280, 720), (1920, 1080)):
        for index, footage in enumerate(shipped_photographs()[:3]):
            photo = load_photo(footage.path)
            rng = np.random.default_rng(index)
            shot = draw_shot(rng, photo.shape[1], photo.shape[0], columns / lines)
            frames = film(photo, shot, num_frames=num_frames, width=columns, height=lines)
            clip = Clip.from_rgb(frames, FRAME_RATES[30])
            reference_rgb = clip.rgb_frames(width=width, height=height)
            for qp in (0, 22, 32, 42):
                times = [time.process_time()]
                stream = encode_h264(clip, qp=qp)
                times.append(time.process_time())
                decoded = decode(stream, fps=clip.fps)
                rgb = decoded.rgb_frames(width=width, height=height)
                times.append(time.process_time())
                if qp:
                    measure_quality(clip, decoded, reference_rgb=reference_rgb, distorted_rgb=rgb)
                times.append(time.process_time())
                megapixels = columns * lines / 1e6
                encode, read = (np.diff(times[:3]) / num_frames).tolist()
                measure = (times[3] - times[1]) / num_frames
                if qp:
                    rows["ENCODE"].append((megapixels, encode))
                    rows["READ_AND_MEASURE"].append((megapixels, measure))
                else:
                    rows["READ_REFERENCE"].append((megapixels, read))
    for name, points in rows.items():
        megapixels, seconds = np.array(points).T
        # Relative errors, so that the line fits the small sizes too.
        slope, base = np.polyfit(megapixels, seconds, 1, w=1 / seconds)
        print(f"{name:<18} base {base:.4f} s, {slope:.4f} s per million pixels")


def compare_measuring(num_rounds: int = 4) -> None:
    """Measure the CPU time of decoding and measuring a frame, alternating with `BASELINE`."""
    import numpy as np

    from beam_pipelines.synthetic.footage import load_photo, shipped_photographs
    from laser_dist.jnd.videoset_layout import FRAME_RATES
    from laser_dist.simulation.camera import draw_shot, film
    from laser_dist.video.codec import encode_h264
    from laser_dist.video.frames import Clip

    here = Path(__file__).parents[1]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        old = Path(scratch) / "old"
        subprocess.run(["git", "worktree", "add", "-qf", "--detach", old, BASELINE], check=True)
        for width, height in ((640, 360), (1920, 1080)):
            photo = load_photo(shipped_photographs()[0].path)
            shot = draw_shot(np.random.default_rng(0), *photo.shape[1::-1], width / height)
            frames = film(photo, shot, num_frames=10, width=width, height=height)
            paths = [Path(scratch) / f"{height}_{qp}.264" for qp in (0, 32)]
            for path, qp in zip(paths, (0, 32), strict=True):
                path.write_bytes(encode_h264(Clip.from_rgb(frames, FRAME_RATES[30]), qp=qp))
            times = [[_measured(root, paths) for root in (old, here)] for _ in range(num_rounds)]
            decode, measure = np.min(times, axis=0).T
            for work, (before, after) in (
                ("measure", measure),
                ("decode and measure", decode + measure),
            ):
                values = [round(float(value), 2) for value in (before, after, after / before)]
                rows.append([f"{height}p, {work}", *values])
        subprocess.run(["git", "worktree", "remove", "--force", old], check=True)
    columns = ["Work per frame", f"{BASELINE} (CPU ms)", "Now (CPU ms)", "Ratio"]
    caption = f"{MEASURED}, least of {num_rounds} rounds that alternate with an older commit"
    add_tables("build", [table(caption, columns, rows)])


def _measured(root: Path, paths: list[Path]) -> list[float]:
    """Return CPU milliseconds per frame of decoding and of measuring with the code below `root`."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)],
        env=os.environ | {"PYTHONPATH": str(root)},
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def measure_costs(num_sources: int) -> None:
    """Measure cost, speedup and memory, and write the result."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_clips(folder / "clips", num_sources)
        bare = run_measured([sys.executable, __file__, "--bare", str(folder / "clips")])
        one = build(folder / "clips", folder / "one", workers=1)
        two = build(folder / "clips", folder / "two", workers=2)
        runs = {
            "Bare loop of the same encodes, decodes, and measurements (PyAV, NumPy)": bare,
            "`laser-jnd build`, one process": one,
            "`laser-jnd build`, two processes": two,
        }
        costs = table(
            f"{num_sources} clips of {SIZE[0]}x{SIZE[1]} and {NUM_FRAMES} frames, encoded at five "
            "QPs, each re-encoded at three more QPs",
            ["Run", "CPU (s)", "Wall time (s)"],
            [[name, round(run.cpu_s, 1), round(run.wall_s, 1)] for name, run in runs.items()],
        )
        peaks = []
        for count in (15, 30, 60):
            clips = folder / f"clips{count}"
            make_clips(clips, count, num_frames=8)
            usage = build(clips, folder / "memory", workers=2)
            peaks.append([count, round(usage.peak_bytes / 1e6)])
        memory = table("Peak memory by number of clips", ["Clips", "Peak memory (MB)"], peaks)
    write_result(
        "build",
        title="Build a dataset",
        simulated=False,
        summary=f"A build takes {one.cpu_s / bare.cpu_s:.2f} times the CPU time of the bare loop. "
        f"Two processes are {one.wall_s / two.wall_s:.2f} times as fast as one.",
        tables=[costs, memory],
        keep=MEASURED,
        notes=[],
    )


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources", type=int, default=60, help="number of clips (%(default)s)")
    parser.add_argument("--rates", action="store_true", help="fit the cost constants")
    parser.add_argument("--measure", action="store_true", help=f"compare with {BASELINE}")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare is not None:
        bare_loop(arguments.bare)
    elif arguments.rates:
        print_rates()
    elif arguments.measure:
        compare_measuring()
    else:
        measure_costs(arguments.sources)


if __name__ == "__main__":
    main()
