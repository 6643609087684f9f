"""What `attack.py` does with each mutated file, in a child process with limited memory."""

import contextlib
import functools
import hashlib
import re
import resource
import tempfile
from pathlib import Path
from typing import Any

MEMORY_BYTES = 6 << 30
"""Address space of a child: TensorFlow alone reserves about 4 GB."""


def attack(kind: str, content: bytes, context: Any, report: Any) -> tuple[str, int]:
    """Give a file to the product.

    Args:
      kind: name of a target, and suffix of the file, such as "archive .zip".
      content: of the file.
      context: SHA-256 of the content of every member of the file that was mutated; for a clip, the
        path of the model.
      report: not called: the complete attack is one step.

    Returns:
      "accepted", "refused", or what went wrong, and the peak memory of this process in bytes.
    """
    del report
    _limit_memory()
    from laser_dist.errors import UserError

    target, suffix = kind.split()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        try:
            outcome = _TARGETS[target](path, context)
        except UserError as error:
            outcome = "refused" if "\n" not in error.message else "a message of several lines"
        except Exception as error:  # noqa: BLE001 - what the user would see as an internal error
            outcome = f"internal error: {type(error).__name__}: {error}"[:150]
    # Not `getrusage`, whose peak includes that of the parent before the fork.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return outcome, int(peak[1]) * 1024 if peak else 0


@functools.cache
def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _media(path: Path, known: frozenset[str]) -> str:
    from laser_dist.video.containers import Damage
    from laser_dist.video.sampling import sample_frames

    sample_frames(path, num_frames=2, width=64, height=48, damage=Damage())
    return "accepted"


def _clip(path: Path, model: Path) -> str:
    import numpy as np

    found = _loaded(model).predict(path)
    return "accepted" if np.isfinite(found.levels).all() else "an answer that is not a number"


def _encode(path: Path, model: Path) -> str:
    from laser_dist.encoding.encode import encode

    output = path.with_name("encoded.mkv")
    found = encode(_loaded(model), path, output, _request(), progress=lambda what, share: None)
    return _outcome(path, {output.name} if found.verified else set())


def _ladder(path: Path, model: Path) -> str:
    from laser_dist.encoding.streaming import LadderRequest, build_ladder, check_ladder

    output = path.with_name("ladder")
    request = LadderRequest(settings=_request().settings)
    heights = check_ladder(path, output, None, request)
    predictions = dict.fromkeys(heights, _loaded(model).predict(path, scenes=True))
    build_ladder(path, output, predictions, request, progress=lambda what, share: None)
    return _outcome(path, {output.name})


def _request() -> Any:
    from laser_dist.encoding.encode import Request
    from laser_dist.encoding.encoders import EncoderSettings

    return Request(margin=0, settings=EncoderSettings(), even_if_coarser=True)


def _outcome(path: Path, expected: set[str]) -> str:
    """Return whether exactly the output has been added next to the file."""
    there = {each.name for each in path.parent.iterdir()} - {path.name}
    return "accepted" if there == expected else f"other files: {sorted(there)}"


@functools.cache
def _loaded(path: Path) -> Any:
    import laser_dist

    return laser_dist.load(path)


def _labels(path: Path, known: frozenset[str]) -> str:
    from laser_dist.jnd.label_files import LabelFile
    from laser_dist.jnd.mcl_jci_labels import parse_mcl_jci_labels
    from laser_dist.jnd.videoset_labels import parse_videoset_labels

    content = path.read_bytes()
    if path.suffix == ".csv":
        names = [f"640x360_{name}.csv" for name in ("1st", "2nd", "3rd")]
        files = [LabelFile(name, name, content) for name in names]
        found = parse_videoset_labels(files, "640x360", location="here").sources
        levels = [level.jnd for source in found for level in source.levels]
        return "accepted" if all(1 <= level <= 51 for level in levels) else "levels out of range"
    name = "JND_image_01.txt"
    found = parse_mcl_jci_labels([LabelFile(name, name, content)], location="here").sources
    factors = [factor for source in found for level in source.samples for factor in level]
    return "accepted" if all(1 <= each <= 99 for each in factors) else "levels out of range"


def _archive(path: Path, known: frozenset[str]) -> str:
    from beam_pipelines.inputs.archives import (
        archives_among,
        members_of,
        needs_index,
        read_stored,
    )
    from beam_pipelines.inputs.tar_index import index_tar
    from laser_dist.errors import UserError
    from laser_dist.storage import list_files

    index = str(path.parent / ".index")
    archives, rejects = archives_among(list_files(path.parent))
    for archive in archives if not rejects else ():
        if needs_index(archive, index):
            index_tar(archive, index)
        members, faults = members_of(archive, index)
        rejects += faults
        for member in members:
            try:
                content = read_stored(member)
            except (UserError, OSError):
                return "refused"
            if hashlib.sha256(content).hexdigest() not in known:
                return "a member has other content"
    return "refused" if rejects else "accepted"


def _model(path: Path, known: frozenset[str]) -> str:
    import numpy as np

    from laser_dist.prediction.load import load_predictor
    from laser_dist.prediction.predict import predict_frames

    predictor = load_predictor(path)
    frames = np.zeros((1, predictor.height, predictor.width, 3), np.uint8)
    with contextlib.suppress(FloatingPointError):
        levels = predict_frames(predictor, frames)
        return "accepted" if np.isfinite(levels).all() else "an answer that is not a number"
    return "refused"


_TARGETS = {
    "media": _media,
    "clip": _clip,
    "encode": _encode,
    "ladder": _ladder,
    "labels": _labels,
    "archive": _archive,
    "model": _model,
}
