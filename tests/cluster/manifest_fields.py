"""Check the fields of manifests against the published schemas in `crd_fields.json`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TYPES = json.loads((Path(__file__).parent / "crd_fields.json").read_text())["types"]
SCALARS = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}


def schema_errors(manifest: dict[str, Any]) -> list[str]:
    """Return what the schema of the manifest's kind does not allow, as path and reason."""
    return list(_errors(manifest, manifest["kind"], manifest["kind"]))


def _errors(value: Any, kind: str, path: str) -> Iterator[str]:
    if kind == "other":
        yield f"{path}: not described in crd_fields.json"
    elif kind.startswith("["):
        yield from _list_errors(value, kind[1:-1], path)
    elif kind.startswith("{"):
        yield from _map_errors(value, kind[1:-1], path)
    elif kind in TYPES:
        yield from _object_errors(value, kind, path)
    elif not _is_scalar(value, kind):
        yield f"{path}: {value!r} is no {kind}"


def _is_scalar(value: Any, kind: str) -> bool:
    if kind == "quantity":  # a number with a unit, such as 300Gi
        return isinstance(value, str) and value[:1].isdigit()
    return isinstance(value, SCALARS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _list_errors(value: Any, kind: str, path: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{path}: {value!r} is no list"
        return
    for index, item in enumerate(value):
        yield from _errors(item, kind, f"{path}[{index}]")


def _map_errors(value: Any, kind: str, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no map"
        return
    for name, item in value.items():
        yield from _errors(item, kind, f"{path}.{name}")


def _object_errors(value: Any, kind: str, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no {kind}"
        return
    for name, item in value.items():
        if name in TYPES[kind]:
            yield from _errors(item, TYPES[kind][name], f"{path}.{name}")
        else:
            yield f"{path}.{name}: no field of {kind}"
