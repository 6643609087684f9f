"""Legacy Keras 2 weight files (HDF5), read with distrust: numbers come out, nothing else is done.

What such a file holds: an attribute `layer_names`; a group for each layer, with an attribute
`weight_names`; in it one array for each weight, called for example `conv2d_7/kernel:0`.
"""

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from laser_dist.errors import UserError


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """A layer of a file.

    Attributes:
      name: the file's, often automatic, so it says nothing but where to look.
      weights: float32, by what each is in its layer, such as "kernel" or "moving_mean".
    """

    name: str
    weights: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class WeightFile:
    """A file's content.

    Attributes:
      origin: how errors call the file.
      layers: those that have weights, in the file's order.
    """

    origin: str
    layers: tuple[StoredLayer, ...]


def read_weight_file(file: h5py.File, origin: str) -> WeightFile:
    """All weights of an open file.

    Links out of the file are not followed, and no array is read that is larger than the file: a
    file can harm neither by where it points nor by what it unpacks to.

    Args:
      file: open for reading.
      origin: how errors call it.

    Raises:
      UserError: no such file, or a damaged one.
    """
    try:
        found = [
            (name, _weights(_member(file, name, h5py.Group)))
            for name in _texts(file.attrs["layer_names"])
        ]
        _check_bytes(file, [each for _, weights in found for each in weights.values()])
        layers = [StoredLayer(name, _read(weights)) for name, weights in found if weights]
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"Weights {origin}",
            "a whole Keras 2 weight file (save_weights to .h5)",
            str(error).strip("'\""),
            "Download it again, or name another.",
        ) from error
    return WeightFile(origin, tuple(layers))


def _weights(layer: h5py.Group) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    for path in _texts(layer.attrs["weight_names"]):
        what = path.rpartition("/")[2].removesuffix(":0")
        if what in found:
            raise ValueError(f"a model inside the model at {layer.name}")
        found[what] = _member(layer, path, h5py.Dataset)
    return found


def _texts(values: Any) -> list[str]:
    return [each.decode() if isinstance(each, bytes) else str(each) for each in values]


def _member(group: h5py.Group, path: str, kind: type) -> Any:
    """What lies at a path, by hard links alone: others may lead to other files."""
    here: Any = group
    for part in path.split("/"):
        if not isinstance(here, h5py.Group) or part not in here:
            raise ValueError(f"no {path} in it")
        if not isinstance(here.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"a link at {path}")
        here = here[part]
    if not isinstance(here, kind):
        raise ValueError(f"no {kind.__name__.lower()} at {path}")
    return here


def _check_bytes(file: h5py.File, arrays: list[h5py.Dataset]) -> None:
    for array in arrays:
        if array.dtype.kind != "f" or array.external or array.is_virtual:
            raise ValueError(f"no plain numbers at {array.name}")
        if array.id.get_storage_size() < array.nbytes:
            raise ValueError(f"fewer bytes than its shape asks for at {array.name}")
    if sum(array.nbytes for array in arrays) > file.id.get_filesize():
        raise ValueError("more numbers than it has room for")


def _read(weights: dict[str, h5py.Dataset]) -> dict[str, NDArray[np.float32]]:
    arrays = {what: array[()].astype(np.float32) for what, array in weights.items()}
    for what, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"a {what} that is not finite, in {weights[what].name}")
    return arrays
