"""Attack this machine's own copy of the product with hostile and damaged files.

    python benchmarks/attack.py                    # the attacks, and 22,000 mutated files
    python benchmarks/attack.py --mutations 400 --seed 7

First the script runs the tests that are marked as attacks: each does what an attacker would, on
this machine only, and passes if it is refused. Then it mutates valid archives, label files, models
and media files, gives each to the product in a child process with limited memory and time, and
counts what happens. Nothing may crash, hang, exceed the memory, end as an internal error, or read a
member of an archive with another content than it had. Last, it does the same with clips in many
formats, which a model predicts, and with a fifth as many videos, which are encoded.
"""

import argparse
import functools
import hashlib
import io
import itertools
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attack_targets import MEMORY_BYTES, attack
from results import table, write_result

from laser_dist.isolation import Crashed, Isolated

ROOT = Path(__file__).parents[1]
SECONDS = 60.0  # for one file
ATTACKS = "Attacks"  # caption of the table of the tests
# Kind of file to its part of all mutations. A model takes longest to load.
KINDS = {
    "archive .zip": 0.15,
    "archive .tar.gz": 0.15,
    "labels .csv": 0.15,
    "labels .txt": 0.1,
    "media .264": 0.1,
    "media .mp4": 0.05,
    "media .png": 0.05,
    "media .jpg": 0.05,
    "model .keras": 0.1,
    "model .onnx": 0.1,
}
# Suffix of a clip to its encoder and pixel format.
VIDEOS = {
    ".mp4": ("libx264", "yuv420p"),
    ".mov": ("mjpeg", "yuvj420p"),
    ".mkv": ("libx265", "yuv420p10le"),
    ".webm": ("libvpx-vp9", "yuv420p"),
    ".avi": ("mpeg4", "yuv420p"),
    ".ts": ("mpeg2video", "yuv420p"),
    ".flv": ("flv", "yuv420p"),
}
# Suffix to Pillow's name of the format.
IMAGES = {
    ".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tiff": "TIFF", ".avif": "AVIF", ".gif": "GIF",
}  # fmt: skip
CSV_HEADER = "anchor,jnd,mean,normality,samples,samples_no,sequence_index,standard_deviation"


class Attacks:
    """Plugin of pytest that keeps the outcome of each marked test."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self._names: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep what each test attacks."""
        for item in items:
            mark = item.get_closest_marker("attack")
            self._names[item.nodeid] = mark.args[0] if mark and mark.args else ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a test."""
        if report.when == "call" or report.failed:
            outcome = "refused" if report.passed else f"NOT refused ({report.outcome})"
            test = report.nodeid.partition("::")[2].partition("[")[0].removeprefix("test_")
            self.rows.append([self._names[report.nodeid], test.replace("_", " "), outcome])


def attacks() -> list[list[str]]:
    """Run the tests that are attacks; return what each attacks, its name and its outcome."""
    plugin = Attacks()
    pytest.main(["-m", "attack", "-q", "-p", "no:cacheprovider", str(ROOT / "tests")], [plugin])
    return sorted(plugin.rows)


def seeds() -> dict[str, bytes]:
    """Return a valid file of each kind."""
    from PIL import Image

    from laser_dist.video.codec import encode_h264
    from laser_dist.video.frames import Clip

    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 48, 64, 3), np.uint8)
    stream = encode_h264(Clip.from_rgb(frames, Fraction(30)), qp=40)
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members().items():
            archive.writestr(name, content)
    with tarfile.open(fileobj=tarred, mode="w:gz") as archive:
        for name, content in members().items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    images = {}
    for suffix, form in (("png", "PNG"), ("jpg", "JPEG")):
        file = io.BytesIO()
        Image.fromarray(frames[0]).save(file, form)
        images[suffix] = file.getvalue()
    model = small_model()
    rows = [f'0,{n},{n}.5,1,"[{n}, {n + 1}]",2,{n},0.7071067812' for n in range(20, 40)]
    return {
        "archive .zip": zipped.getvalue(),
        "archive .tar.gz": tarred.getvalue(),
        "labels .csv": "\n".join([CSV_HEADER, *rows, ""]).encode(),
        "labels .txt": b"".join(b"subject%02d 60 40 20\n" % number for number in range(30)),
        "media .264": stream,
        "media .mp4": in_container(frames, ".mp4"),
        "media .png": images["png"],
        "media .jpg": images["jpg"],
        "model .keras": model,
        "model .onnx": in_onnx(model),
    }


def members() -> dict[str, bytes]:
    """Return the members of the valid archives."""
    rng = np.random.default_rng(1)
    return {f"clips/{n}.264": rng.bytes(300) + bytes(2000 * n) for n in range(5)}


def clips() -> dict[str, bytes]:
    """Return a valid clip in each format: 12 frames of moving noise, or one."""
    from PIL import Image

    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, (76, 92, 3), np.uint8)
    frames = np.stack([noise[k : k + 64, k : k + 80] for k in range(12)])
    found = {f"clip {suffix}": in_container(frames, suffix) for suffix in VIDEOS}
    for suffix, form in IMAGES.items():
        file = io.BytesIO()
        Image.fromarray(frames[0]).save(file, form)
        found[f"clip {suffix}"] = file.getvalue()
    return found


def in_container(frames: np.ndarray, suffix: str) -> bytes:
    """Return frames [N, H, W, 3] as a file with one of the suffixes of `VIDEOS`."""
    import av

    library, pixels = VIDEOS[suffix]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(library, rate=30)
            stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixels
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        return path.read_bytes()


def small_model() -> bytes:
    """Return an untrained predictor of the smallest size, as a `.keras` file."""
    import os

    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    from laser_dist.models.autoencoder import build_autoencoder
    from laser_dist.models.heads import build_head
    from laser_dist.models.predictor_spec import PredictorSpec
    from laser_dist.models.predictors import build_predictor
    from laser_dist.models.specs import BackboneSpec, HeadSpec
    from laser_dist.models.variants import variant_named

    variant = variant_named("lat")
    spec = BackboneSpec(filters=4, latent_filters=4, height=48, width=64)
    backbone = build_autoencoder(spec, "jnd1")
    head = build_head(
        HeadSpec(filters=(4,), dense=()), variant.feature_shape(spec), levels=1,
        initial_levels=[30.0], name="head",
    )  # fmt: skip
    meaning = PredictorSpec(variant="lat", levels=(1,), scale="QP", simulated=True)
    model = build_predictor([backbone], [head], meaning)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def in_onnx(model: bytes) -> bytes:
    """Return a model, given as a `.keras` file, as an exported `.onnx` file."""
    from laser_dist.prediction.export import export_model

    def frames_of(height: int, width: int) -> np.ndarray:
        return np.zeros((1, height, width, 3), np.uint8)

    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "model.keras", Path(folder) / "model.onnx"
        source.write_bytes(model)
        export_model(source, output, frames_of, to="onnx", is_trusted=True)
        return output.read_bytes()


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with one to three random changes."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        size = max(len(data), 1)
        at, length = int(rng.integers(size)), int(rng.integers(1, 1 + min(size, 200)))
        change: Callable[[], None] = (
            [
                lambda at=at: data.__setitem__(slice(at, None), b""),  # truncate
                lambda at=at: data.__setitem__(
                    slice(at, at + 1), bytes([data[at] ^ (1 << at % 8)])
                ),
                lambda at=at, n=length: data.__setitem__(slice(at, at + n), rng.bytes(n)),
                lambda at=at, n=length: data.__delitem__(slice(at, at + n)),
                lambda at=at, n=length: data.__setitem__(slice(at, at), data[at : at + n]),
                lambda at=at: data.__setitem__(slice(at, at + 4), b"\xff\xff\xff\x7f"),  # a size
                lambda at=at: data.__setitem__(slice(at, at + 8), bytes(8)),
                lambda at=at: data.__setitem__(slice(at, at), b"9" * 40),  # a number
            ][rng.integers(8)]
            if data
            else lambda: None
        )
        change()
    return bytes(data)


def files(kind: str, count: int, valid: bytes, seed: int) -> Iterator[bytes]:
    """Yield mutations of a valid file."""
    rng = np.random.default_rng([seed, *kind.encode()])
    for _ in itertools.repeat(None, count):
        yield mutated(valid, rng)


def tried(
    valid: dict[str, bytes], parts: dict[str, float], context: Any, arguments: argparse.Namespace
) -> list[list[Any]]:
    """Give mutations of valid files to the product; return a row per kind.

    Args:
      valid: kind to a valid file.
      parts: kind to its part of all mutations.
      context: passed to the target; see `attack`.
      arguments: of the command line.
    """
    rows = []
    for kind, content in valid.items():
        child = Isolated(SECONDS)
        call = functools.partial(child.call, attack, kind)
        if (first := call(content, context)[0]) != "accepted":
            sys.exit(f"The valid file of kind {kind} is not accepted: {first}.")
        outcomes: Counter[str] = Counter()
        peak, slowest = 0, 0.0
        for mutation in files(
            kind, round(arguments.mutations * parts[kind]), content, arguments.seed
        ):
            started = time.monotonic()
            try:
                outcome, memory = call(mutation, context)
                peak = max(peak, memory)
            except Crashed as crash:
                outcome = crash.how
            slowest = max(slowest, time.monotonic() - started)
            outcomes[outcome] += 1
        child.close()
        others = {what: n for what, n in outcomes.items() if what not in ("accepted", "refused")}
        problems = "; ".join(f"{n} times: {what}" for what, n in others.items())
        rows.append(
            [kind, outcomes.total(), outcomes["refused"], outcomes["accepted"], problems or None]
            + [round(peak / 2**20), round(slowest, 1)]
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mutations", type=int, default=10_000, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-mutations", action="store_true", help="do not run the attacks")
    arguments = parser.parse_args()
    tables = []
    refused = [] if arguments.only_mutations else attacks()
    if refused:
        tables.append(table(ATTACKS, ["Target", "Attack", "Outcome"], refused))
    known = frozenset(hashlib.sha256(content).hexdigest() for content in members().values())
    rows = tried(seeds(), KINDS, known, arguments)
    formats = clips()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        model.write_bytes(in_onnx(small_model()))
        predicted = tried(formats, dict.fromkeys(formats, 1 / len(formats)), model, arguments)
        videos = {f"encode {suffix}": formats[f"clip {suffix}"] for suffix in VIDEOS}
        videos |= {f"ladder {suffix}": formats[f"clip {suffix}"] for suffix in VIDEOS}
        parts = {kind: (0.18 if "encode" in kind else 0.02) / len(VIDEOS) for kind in videos}
        encoded = tried(videos, parts, model, arguments)
    bad = sum("NOT" in row[-1] for row in refused)
    groups = {"": rows, ", predicted": predicted, ", encoded": encoded}
    mutations = [row for group in groups.values() for row in group]
    bad += sum(tried - refused - accepted for _, tried, refused, accepted, *_ in mutations)
    columns = [
        "Kind",
        "Tried",
        "Refused",
        "Accepted",
        "Problems",
        "Peak memory (MiB)",
        "Slowest (s)",
    ]
    for what, group in groups.items():
        tables.append(table(f"Mutated {'clips' if what else 'files'}{what}", columns, group))
    write_result(
        "attack",
        title="Attack the product",
        simulated=False,
        summary=(f"{len(refused)} attacks and " if refused else "")
        + f"{sum(row[1] for row in mutations):,} mutated files: {bad} problems.",
        tables=tables,
        keep=ATTACKS if arguments.only_mutations else None,
        notes=[
            f"Each file has {SECONDS:.0f} s and {MEMORY_BYTES >> 30} GiB of address space.",
            "An accepted file is one whose mutation leaves it valid, such as another digit in a "
            "label, or changed picture data, which H.264 does not protect by a checksum. A damaged "
            "clip is accepted if it is predicted from what decodes, or if what decodes is encoded.",
        ],
    )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
