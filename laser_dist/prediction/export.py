"""Write a trained predictor for ONNX Runtime, OpenVINO or TensorFlow, and check it against Keras.

The preprocessing is part of the graph: see `exported`. Every file is loaded again and run on real
frames before it gets its name, because a converter can write a graph that no library runs.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from laser_dist.errors import UserError
from laser_dist.jnd.calibration import COVERAGE
from laser_dist.models.predictors import load_saved_model
from laser_dist.prediction.exported import (
    FRAMES,
    LEVELS,
    METADATA_KEY,
    SPREADS,
    Metadata,
    imported,
    joined_outputs,
    load_onnx,
    load_openvino,
)
from laser_dist.prediction.keras_models import from_model
from laser_dist.prediction.predict import predict_frames
from laser_dist.prediction.predictor import Predictor
from laser_dist.storage.cache import file_hash
from laser_dist.storage.temporary import temporary_folder

Format = Literal["onnx", "openvino", "saved_model", "keras"]
Precision = Literal["float32", "bf16", "int8"]

SUFFIXES: dict[str, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "saved_model": "",
    "keras": ".keras",
}
PRECISIONS: dict[str, tuple[str, ...]] = {
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "bf16", "int8"),
    "saved_model": ("float32",),
    "keras": ("float32",),
}
MAX_DIFFERENCE = {"float32": 0.01, "bf16": 0.2, "int8": 0.2}
"""Largest difference of a level from Keras, in steps of the scale."""
_OURS = Path("assets.extra") / f"{METADATA_KEY}.json"  # metadata in a SavedModel
_OPSET = 18
_BATCH = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported model that passed its check.

    Attributes:
      path: the file, or the folder of a SavedModel.
      metadata: of the model.
      runtime: library that ran it for the check, with its version.
      difference: largest difference of a level or spread from Keras, in steps of the scale.
      num_frames: number of frames that were compared.
      num_bytes: size of all its files.
    """

    path: Path
    metadata: Metadata
    runtime: str
    difference: float
    num_frames: int
    num_bytes: int


def export_model(
    source: Path,
    output: Path,
    frames_of: Callable[[int, int], NDArray[np.uint8]],
    *,
    to: Format,
    precision: Precision = "float32",
    is_trusted: bool = False,
    label_noise: tuple[float, ...] | None = None,
) -> Exported:
    """Export a predictor, compare it with Keras, and write a model card next to it.

    Args:
      source: the predictor's `.keras` file.
      output: file to write, with the suffix of the format; a folder for a SavedModel. Replaced if
        it exists.
      frames_of: returns frames uint8 [N, height, width, 3], RGB, for a height and a width: real
        ones, to compare on and, for int8, to calibrate with.
      to: format to write.
      precision: see `PRECISIONS`.
      is_trusted: whether the source is part of a run.
      label_noise: for the metadata.

    Raises:
      UserError: the format does not have the precision, a package is missing, the output has
        another suffix, or the exported model cannot be run or is off by more than
        `MAX_DIFFERENCE`.
    """
    check_request(output, to, precision)
    model = load_saved_model(source, is_trusted=is_trusted)
    reference = from_model(model, origin=str(source))
    metadata = Metadata(
        spec=reference.spec,
        width=reference.width,
        height=reference.height,
        precision=precision,
        source=file_hash(source),
        label_noise=label_noise,
    )
    frames = frames_of(reference.height, reference.width)
    output.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(output.parent) as temporary:
        scratch = temporary / "exported"
        scratch.mkdir()
        written = scratch / output.name
        if to == "keras":
            shutil.copyfile(source, written)
        elif to == "saved_model":
            _write_saved_model(model, metadata, written)
        else:
            onnx_path = written.with_suffix(".onnx")
            _write_onnx(model, metadata, onnx_path)
            if precision == "int8":
                _quantize(onnx_path, frames)
            _add_metadata(onnx_path, metadata)
            if to == "openvino":
                _write_openvino(onnx_path, metadata, written)
                onnx_path.unlink()
        exported = replace(_loaded(written, to, reference), origin=str(output))
        difference = _difference(exported, reference, frames)
        if difference > MAX_DIFFERENCE[precision]:
            raise UserError(
                f"The exported model differs from Keras by {difference:.3g} {reference.scale.name};"
                f" the limit for {precision} is {MAX_DIFFERENCE[precision]}.",
                hint="" if precision == "float32" else "Export with --precision float32.",
            )
        names = sorted(path.name for path in scratch.iterdir())
        result = Exported(
            path=output,
            metadata=metadata,
            runtime=exported.runtime,
            difference=difference,
            num_frames=len(frames),
            num_bytes=sum(path.stat().st_size for path in _files(scratch)),
        )
        card = scratch / card_path(output).name
        card.write_text(model_card(result), encoding="utf-8")
        if to == "saved_model" and output.exists():
            shutil.rmtree(output)  # ours: `check_request` has looked
        for name in (*names, card.name):
            os.replace(scratch / name, output.parent / name)
    return result


def check_request(output: Path, to: str, precision: str) -> None:
    """Check what can be checked before anything is loaded; errors as for `export_model`."""
    if precision not in PRECISIONS[to]:
        raise UserError(
            f"The format {to} is not exported in {precision}.",
            hint=f"It has {', '.join(PRECISIONS[to])}.",
        )
    if output.suffix != SUFFIXES[to]:
        ending = f"end in {SUFFIXES[to]}" if SUFFIXES[to] else "be a folder without a suffix"
        raise UserError(f"The output of the format {to} must {ending}, not be {output}.")
    if to == "saved_model" and output.exists() and not (output / _OURS).is_file():
        raise UserError(
            f"{output} exists and is not a SavedModel of laser-jnd.", hint="Name a new folder."
        )
    if to != "saved_model" and output.is_dir():
        raise UserError(f"{output} is a folder.", hint="Name another --output.")
    needed = {"onnx": ["tf2onnx", "onnx"], "openvino": ["tf2onnx", "onnx", "openvino"]}
    for package in needed.get(to, []):
        _import(package)


def card_path(output: Path) -> Path:
    """Return the path of the model card of an exported model."""
    return output.with_name(f"{output.name}.md")


def model_card(exported: Exported) -> str:
    """Return the model card of an exported model, as Markdown."""
    metadata, spec = exported.metadata, exported.metadata.spec
    widths = spec.residuals and spec.residuals.half_widths().tolist()
    levels = ", ".join(f"JND{level}" for level in spec.levels)
    viewers = "SIMULATED viewers" if spec.simulated else "people"
    rows = {
        "Variant": spec.variant,
        "Predicts": f"{levels} in {spec.scale}, for {spec.scale} at which 75% of the viewers see no"
        " difference",
        "Learned from the answers of": viewers,
        "Input": f"`{FRAMES}`: uint8 [N, {metadata.height}, {metadata.width}, 3], RGB",
        "Output": f"`{LEVELS}`: float32 [N, {len(spec.levels)}]"
        + (f"; `{SPREADS}`: the same shape, standard deviation of the viewers" * spec.spread),
        "Precision": metadata.precision,
        f"Interval for {COVERAGE:.0%} of clips": _per_level(widths, "± "),
        "Label noise": _per_level(metadata.label_noise),
        "Largest difference from Keras": f"{exported.difference:.2g} {spec.scale}, on"
        f" {exported.num_frames} frames, with {exported.runtime}",
        "Size": f"{exported.num_bytes:,} bytes",
        "SHA-256 of the source": f"`{metadata.source}`",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# {exported.path.name}

A predictor of just-noticeable differences, exported by laser-jnd.

| Property | Value |
|---|---|
{table}

Frames are scaled, not cropped, to the size of the input. A level is the mean over the frames of a
clip. It holds for x264 at constant QP, 8-bit SDR video, and viewers as in the training data.
"""


def _per_level(values: tuple[float, ...] | None, sign: str = "") -> str:
    if values is None:
        return "not measured"
    return ", ".join(f"{sign}{value:.2f}" for value in values)


def _write_onnx(model: keras.Model, metadata: Metadata, path: Path) -> None:
    tf2onnx, onnx = _import("tf2onnx"), _import("onnx")
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # it goes on after an error
    graph, _ = tf2onnx.convert.from_function(
        _graph(model, metadata),
        input_signature=_signature(metadata),
        opset=_OPSET,
        custom_op_handlers={"Log1p": (_log1p, [])},
    )
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    if unknown := sorted({node.op_type for node in graph.graph.node} - known):
        raise UserError(
            f"The model cannot be exported to onnx: ONNX has no operation {', '.join(unknown)}.",
            hint="Export it with --format saved_model.",
        )
    onnx.save(graph, path)


def _add_metadata(path: Path, metadata: Metadata) -> None:
    onnx = _import("onnx")
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {METADATA_KEY: metadata.to_json()})
    onnx.save(graph, path)


def _log1p(context: Any, node: Any, name: str, _: Any) -> None:
    """Write log1p, which ONNX lacks, as log(1 + x): near zero it is off by 6e-8."""
    (source,), (target,) = node.input, node.output
    shape, dtype = context.get_shape(target), context.get_dtype(target)
    context.remove_node(node.name)
    one = context.make_const(f"{name}_one", np.ones((), np.float32)).output[0]
    added = context.make_node("Add", [source, one]).output[0]
    context.make_node("Log", [added], outputs=[target], shapes=[shape], dtypes=[dtype])


def _quantize(path: Path, frames: NDArray[np.uint8]) -> None:
    """Replace a float32 graph by one whose backbones compute in int8, calibrated on frames.

    Heads stay in float32: they are small, and compress features such that small ones count.
    """
    onnx = _import("onnx")
    quantization = _import("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            starts = range(0, len(frames), _BATCH)
            self._batches = ({FRAMES: frames[start : start + _BATCH]} for start in starts)

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self._batches, None)

    nodes = onnx.load(path).graph.node
    heads = [each.name for each in nodes if not re.search("_(en|de)coder", each.name)]
    quantized = path.with_suffix(".int8.onnx")
    quantization.quantize_static(
        path,
        quantized,
        Reader(),
        per_channel=True,
        # Otherwise 16-bit sums overflow on processors with AVX2 but without VNNI.
        reduce_range=True,
        op_types_to_quantize=["Conv", "ConvTranspose"],
        nodes_to_exclude=heads,
        weight_type=quantization.QuantType.QInt8,
        activation_type=quantization.QuantType.QUInt8,
    )
    os.replace(quantized, path)


def _write_openvino(source: Path, metadata: Metadata, path: Path) -> None:
    openvino = _import("openvino")
    # Not `convert_model`, which reports its use to the network.
    graph = openvino.Core().read_model(source)
    graph.set_rt_info(metadata.to_json(), [METADATA_KEY])
    openvino.save_model(graph, path, compress_to_fp16=False)


def _write_saved_model(model: keras.Model, metadata: Metadata, path: Path) -> None:
    module = tf.Module()
    module.model = model
    serve = _graph(model, metadata)
    signature = serve.get_concrete_function(*_signature(metadata))
    tf.saved_model.save(module, str(path), signatures={"serving_default": signature})
    (path / _OURS).parent.mkdir()
    (path / _OURS).write_text(metadata.to_json(), encoding="utf-8")


def _signature(metadata: Metadata) -> list[tf.TensorSpec]:
    shape = (None, metadata.height, metadata.width, 3)
    return [tf.TensorSpec(shape, tf.uint8, name=FRAMES)]


def _graph(model: keras.Model, metadata: Metadata) -> Any:
    """Return the function from frames, as stored, to the named outputs."""

    def serve(frames: Any) -> dict[str, Any]:
        found = model(tf.cast(frames, tf.float32), training=False)
        if not metadata.spec.spread:
            return {LEVELS: found}
        return {LEVELS: found[..., 0], SPREADS: found[..., 1]}

    return tf.function(serve, input_signature=_signature(metadata))


def _loaded(path: Path, to: Format, reference: Predictor) -> Predictor:
    """Load what was written, as a user will."""
    if to == "onnx":
        return load_onnx(path)
    if to == "openvino":
        return load_openvino(path)
    if to == "keras":
        return from_model(load_saved_model(path), origin=str(path))
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]

    def forward(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return joined_outputs(serve(**{FRAMES: tf.constant(frames)}), reference.spec)

    return replace(reference, forward=forward, runtime=f"TensorFlow {tf.__version__}")


def _difference(exported: Predictor, reference: Predictor, frames: NDArray[np.uint8]) -> float:
    found = predict_frames(exported, frames, batch_size=_BATCH)
    expected = predict_frames(reference, frames, batch_size=_BATCH)
    return float(np.abs(found - expected).max())


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _import(package: str) -> Any:
    return imported(package, "Exporting", "Install the extra: pip install 'laser-jnd[export]'.")
