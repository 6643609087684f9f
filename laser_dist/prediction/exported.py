"""Exported models, which ONNX Runtime or OpenVINO runs, without Keras or TensorFlow.

The graph takes frames uint8 [B, H, W, 3], RGB, named "frames". It returns levels float32 [B, L],
named "levels", and, if the predictor has them, spreads [B, L], named "spreads". The metadata of the
file say what the numbers mean, as JSON under `METADATA_KEY`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laser_dist.errors import UserError
from laser_dist.jnd.scale import scale_named
from laser_dist.machine import num_cores
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.prediction.predictor import Predictor, wrong_shapes
from laser_dist.storage import limit, open_regular
from laser_dist.video.containers import MAX_PIXELS

METADATA_KEY = "laser_jnd"
FRAMES, LEVELS, SPREADS = "frames", "levels", "spreads"
MAX_EXPORT_BYTES = limit("MAX_MODEL_BYTES", 2 << 30)
_FORMAT = 1
_HINT = "Export the model again with `laser-jnd export`."


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What an exported model's numbers mean, and where it comes from.

    Attributes:
      spec: meaning of the output.
      width: frame width in pixels.
      height: frame height in pixels.
      precision: number format of the weights or of the computation: float32, bf16 or int8.
      source: SHA-256 of the `.keras` file that was exported.
      label_noise: for each of L levels, how far it moves on average if its viewers are resampled,
        in steps of the scale; None if it has not been measured.
    """

    spec: PredictorSpec
    width: int
    height: int
    precision: str
    source: str
    label_noise: tuple[float, ...] | None = None

    def to_json(self) -> str:
        """Return the metadata as JSON."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Return the metadata of `to_json`.

        Raises:
          ValueError: the text is not of this format.
        """
        try:
            values = json.loads(text)
            if values.pop("format") != _FORMAT:
                raise ValueError("another format")
            noise = values.pop("label_noise")
            values["spec"] = PredictorSpec.of(values["spec"])
            return cls(**values, label_noise=noise and tuple(map(float, noise)))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not the metadata of a predictor: {error}") from error


def load_onnx(path: Path, *, num_threads: int | None = None) -> Predictor:
    """Load an exported `.onnx` file into ONNX Runtime.

    Args:
      path: of the file.
      num_threads: threads of each call of the model; None for one per core.

    Raises:
      UserError: the file is missing, too large, or not an exported predictor.
    """
    with open_regular(path, max_bytes=MAX_EXPORT_BYTES, hint=_HINT) as file:
        content = file.read()
    runtime = imported("onnxruntime", str(path), "Install it: pip install onnxruntime.")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = num_threads or num_cores()
    options.log_severity_level = 4  # it reports errors on the terminal, too
    try:
        # From bytes, so that it opens no other file that the model may name.
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        metadata = _metadata(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path)
        shapes = [(each.name, each.type, tuple(each.shape)) for each in session.get_inputs()]
        names = [each.name for each in session.get_outputs()]
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime has a separate class for each kind of failure
        raise _damaged(path) from error

    def outputs(frames: NDArray[np.uint8]) -> Mapping[str, Any]:
        return dict(zip(names, session.run(names, {FRAMES: frames}), strict=True))

    inputs = [(name, kind.removeprefix("tensor(").removesuffix(")"), s) for name, kind, s in shapes]
    version = f"ONNX Runtime {runtime.__version__}"
    return _predictor(path, metadata, inputs, names, outputs, version)


def load_openvino(path: Path, *, num_threads: int | None = None) -> Predictor:
    """Load an exported `.xml` file, and the `.bin` file next to it, into OpenVINO.

    Args:
      path: of the `.xml` file.
      num_threads: as for `load_onnx`.

    Raises:
      UserError: a file is missing, too large, or not an exported predictor, or OpenVINO is not
        installed.
    """
    contents = []
    for each in (path, path.with_suffix(".bin")):
        with open_regular(each, max_bytes=MAX_EXPORT_BYTES, hint=_HINT) as file:
            contents.append(file.read())
    runtime = imported("openvino", str(path), "Install it: pip install openvino.")
    try:
        core = runtime.Core()
        weights = np.frombuffer(contents[1], np.uint8)
        model = core.read_model(contents[0], runtime.Tensor(weights))
        has_metadata = model.has_rt_info([METADATA_KEY])
        text = model.get_rt_info([METADATA_KEY]).value if has_metadata else None
        metadata = _metadata(text, path)
        inputs = [
            (each.get_any_name(), each.get_element_type().to_string().replace("u8", "uint8"), shape)
            for each in model.inputs
            for shape in [tuple(d if d.is_dynamic else d.get_length() for d in each.partial_shape)]
        ]
        names = [each.get_any_name() for each in model.outputs]
        precision = "bf16" if metadata.precision == "bf16" else "f32"
        threads = num_threads or num_cores()
        hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
        compiled = core.compile_model(model, "CPU", hints)
    except UserError:
        raise
    except Exception as error:  # OpenVINO raises RuntimeError for almost everything
        raise _damaged(path) from error

    def outputs(frames: NDArray[np.uint8]) -> Mapping[str, Any]:
        found = compiled.create_infer_request().infer({FRAMES: frames})
        return {name: found[name] for name in names}

    version = f"OpenVINO {runtime.__version__.partition('-')[0]}"
    return _predictor(path, metadata, inputs, names, outputs, version)


def _predictor(
    path: Path,
    metadata: Metadata,
    inputs: list[tuple[str, str, tuple[Any, ...]]],
    names: list[str],
    outputs: Callable[[NDArray[np.uint8]], Mapping[str, Any]],
    runtime: str,
) -> Predictor:
    """Return a predictor, after checking that the graph has the inputs and outputs of its spec."""
    spec, size = metadata.spec, (metadata.height, metadata.width, 3)
    wanted = _names(spec)
    is_frames = [(name, kind, shape[1:]) for name, kind, shape in inputs] == [
        (FRAMES, "uint8", size)
    ]
    if not is_frames or sorted(names) != wanted or size[0] * size[1] > MAX_PIXELS:
        raise wrong_shapes(str(path), inputs, names, spec)

    def forward(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        joined = joined_outputs(outputs(frames), spec)
        if joined.shape != (len(frames), *spec.output_shape):
            raise ValueError(f"an output of shape {joined.shape}")
        return joined

    return Predictor(
        forward=forward,
        width=metadata.width,
        height=metadata.height,
        spec=spec,
        scale=scale_named(spec.scale, of=str(path)),
        runtime=runtime,
        origin=str(path),
    )


def joined_outputs(outputs: Mapping[str, Any], spec: PredictorSpec) -> NDArray[np.float32]:
    """Return the named outputs of a graph as those of `Predictor.forward`."""
    arrays = [np.asarray(outputs[name], np.float32) for name in _names(spec)]
    return np.stack(arrays, axis=-1) if spec.spread else arrays[0]


def _names(spec: PredictorSpec) -> list[str]:
    return [LEVELS, SPREADS] if spec.spread else [LEVELS]


def _metadata(text: str | None, path: Path) -> Metadata:
    try:
        return Metadata.from_json(text or "")
    except ValueError as error:
        raise UserError(
            f"{path} is not a predictor that this version of laser-jnd exported.", hint=_HINT
        ) from error


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is not an exported model, or is damaged.", hint=_HINT)


def imported(package: str, what: str, hint: str) -> Any:
    """Import a package that is optional.

    Args:
      package: name of the package, or of a module in it.
      what: what needs it.
      hint: how to install it.

    Raises:
      UserError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        message = f"{what} needs the package {name}, which is not installed."
        raise UserError(message, hint=hint) from error
