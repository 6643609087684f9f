"""Legacy Keras 2 weight files (HDF5), read as untrusted input: only numbers are taken from them.

Such a file has an attribute `layer_names` and a group per layer. The group has an attribute
`weight_names` and an array per weight, named for example `conv2d_7/kernel:0`.
"""

import contextlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from laser_dist.errors import UserError
from laser_dist.isolation import Crashed, Isolated, OutOfMemory
from laser_dist.storage import limit

MAX_WEIGHT_BYTES = limit("MAX_WEIGHT_BYTES", 2 << 30)
"""Largest weight file, 2 GiB."""


MAX_READ_S = limit("MAX_READ_S", 60)
"""Longest time to read a weight file, in seconds."""


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """A layer of a file.

    Attributes:
      name: name in the file, often automatic, so it only helps to locate the layer.
      weights: float32, by their role in the layer, such as "kernel" or "moving_mean".
    """

    name: str
    weights: dict[str, NDArray[np.float32]]

    @property
    def text(self) -> str:
        """Names and shapes of the weights, for messages."""
        return ", ".join(f"{name} {values.shape}" for name, values in self.weights.items())


@dataclass(frozen=True, eq=False)
class WeightFile:
    """The content of a file.

    Attributes:
      origin: name of the file in errors.
      layers: layers with weights, in file order.
    """

    origin: str
    layers: tuple[StoredLayer, ...]


def check_readable(path: Path) -> None:
    """Read a weight file, or the weights in a `.keras` file, in a child process first.

    The HDF5 library does not return from some damaged files, and no signal reaches Python in it.

    Raises:
      UserError: reading takes more than `MAX_READ_S`, or crashes.
    """
    child = Isolated(MAX_READ_S)
    try:
        child.call(_read_everything, path.resolve())
        return
    except Crashed as crash:
        how = f"takes more than {crash.needs}" if crash.needs else "crashes the HDF5 library"
    except OutOfMemory:
        how = "needs more memory than is free"
    finally:
        child.close()
    raise UserError(
        f"Reading the weights in {path} {how}.", hint="Download it again, or name another file."
    )


def read_weight_file(file: h5py.File, origin: str) -> WeightFile:
    """Read all weights of an open file.

    Links out of the file are not followed, and no array is read that is larger than the file, so a
    hostile file can neither reach other files nor exhaust the memory.

    Args:
      file: open for reading.
      origin: name of the file in errors.

    Raises:
      UserError: the file is not a weight file, or is damaged.
    """
    try:
        found = [
            (name, _weights(_member(file, name, h5py.Group)))
            for name in _texts(file.attrs["layer_names"])
        ]
        _check_bytes(file, [each for _, weights in found for each in weights.values()])
        layers = [StoredLayer(name, _read(weights)) for name, weights in found if weights]
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        problem = str(error).strip("'\"")
        raise UserError(
            f"{origin} is not a complete Keras 2 weight file (save_weights to .h5): {problem}.",
            hint="Download it again, or name another file.",
        ) from error
    return WeightFile(origin, tuple(layers))


def _weights(layer: h5py.Group) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    for path in _texts(layer.attrs["weight_names"]):
        name = path.rpartition("/")[2].removesuffix(":0")
        if name in found:
            raise ValueError(f"there is a model inside the model at {layer.name}")
        found[name] = _member(layer, path, h5py.Dataset)
    return found


def _texts(values: Any) -> list[str]:
    return [each.decode() if isinstance(each, bytes) else str(each) for each in values]


def _member(group: h5py.Group, path: str, kind: type) -> Any:
    """Return the member at a path of hard links; other links may lead to other files."""
    here: Any = group
    for part in path.split("/"):
        if not isinstance(here, h5py.Group) or part not in here:
            raise ValueError(f"it has no {path}")
        if not isinstance(here.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"there is a link at {path}")
        here = here[part]
    if not isinstance(here, kind):
        raise ValueError(f"there is no {kind.__name__.lower()} at {path}")
    return here


def _check_bytes(file: h5py.File, arrays: list[h5py.Dataset]) -> None:
    for array in arrays:
        if array.dtype.kind != "f" or array.external or array.is_virtual:
            raise ValueError(f"{array.name} does not hold plain numbers")
        if array.id.get_storage_size() < array.nbytes:
            raise ValueError(f"{array.name} has fewer bytes than its shape needs")
    if sum(array.nbytes for array in arrays) > file.id.get_filesize():
        raise ValueError("it has more numbers than bytes")


def _read(weights: dict[str, h5py.Dataset]) -> dict[str, NDArray[np.float32]]:
    arrays = {name: array[()].astype(np.float32) for name, array in weights.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{weights[name].name} is not finite")
    return arrays


def _visit(group: h5py.Group, seen: set[Any]) -> None:
    """Read all that is below a group, without following links; errors are left to the reader."""
    for name in list(group):
        with contextlib.suppress(Exception):
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            member = group[name]
            if member.id in seen:
                continue
            seen.add(member.id)
            with contextlib.suppress(Exception):
                dict(member.attrs)
            if isinstance(member, h5py.Group):
                _visit(member, seen)
            elif isinstance(member, h5py.Dataset):
                _check_bytes(member.file, [member])
                member[()]


def _read_everything(path: Path, report: Callable[[Any], None]) -> None:
    """Read all weights, as one step; errors that are no crash are left to the reader."""
    del report
    with contextlib.suppress(Exception):
        if not zipfile.is_zipfile(path):
            with h5py.File(path) as file:
                read_weight_file(file, str(path))
            return
        with zipfile.ZipFile(path) as archive:
            content = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content) as file:
            with contextlib.suppress(Exception):
                dict(file.attrs)
            _visit(file, {file.id})
