"""Cache of decoded frames on each machine: every frame is decoded once, not in every epoch.

`FOLDER/IMAGE.npy` has the frames of one image of all examples of a split, uint8 [N, H, W, 3], in
the stored order, and `IMAGE.json` the checksum of each frame. All workers of a machine share the
files: the first one decodes, with all cores, while the others wait.
"""

import contextlib
import fcntl
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import google_crc32c
import numpy as np

from laser_dist import storage
from laser_dist.examples.frames import CachedFrames, DecodedFrames, Frames
from laser_dist.examples.memory_maps import new_map
from laser_dist.machine import num_cores

_AT_A_TIME = 64  # examples that are decoded at once; more if there are more cores
_LOCK = ".lock"

logger = logging.getLogger(__name__)


def cached_frames(
    decoded: DecodedFrames,
    images: Sequence[str],
    folder: Path,
    limit_bytes: float,
    *,
    name: str = "frames",
    heartbeat: Callable[[], None] = lambda: None,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Frames:
    """Return frames of a split from the cache, after those that it lacks were decoded into it.

    Args:
      decoded: the split, to decode.
      images: names of the images that are needed, such as ("raw", "jnd1").
      folder: folder of the split, of this user; its parent has nothing but such folders, of which
        those that were not used for longest are removed to make room.
      limit_bytes: largest size of all folders together.
      name: name of the frames, for messages.
      heartbeat: called after each unit of work.
      waiting: context of the wait for another process that decodes.

    Returns:
      `decoded` itself, if the frames exceed the limit or do not fit on the disk.
    """
    frame_bytes = 3 * math.prod(decoded.size)
    total = frame_bytes * len(decoded) * len(images)
    if total > limit_bytes:
        logger.info(
            "%s: decoded in each epoch; cached, they would have %s, above frame_cache_gb (%s)",
            name,
            _size(total),
            _size(limit_bytes),
        )
        return decoded
    with _locked(folder, waiting):
        _make_room(folder, limit_bytes - total)
        found = {image: _intact(folder, image, decoded, heartbeat) for image in images}
        missing = [image for image, frames in found.items() if frames is None]
        size = frame_bytes * len(decoded) * len(missing)
        if size > shutil.disk_usage(folder).free:
            logger.info("%s: decoded in each epoch; %s do not fit on the disk", name, _size(size))
            return decoded
        if missing:
            logger.info("%s: decoding %d examples into %s", name, len(decoded), _size(size))
            _decode_into(folder, decoded, missing, heartbeat)
        return CachedFrames({image: _map(folder, image) for image in images})


@contextmanager
def _locked(folder: Path, waiting: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Let one process of this machine in at a time; a killed one leaves no lock."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as file:  # its time says when the folder was last used
        with waiting():
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_room(folder: Path, left_bytes: float) -> None:
    """Remove the folders next to this one that were not used for longest, until the rest fits."""
    others = [each for each in folder.parent.iterdir() if each != folder and each.is_dir()]
    sizes = {each: sum(file.stat().st_size for file in each.iterdir()) for each in others}
    for each in sorted(others, key=_last_use):
        if sum(sizes.values()) <= left_bytes:
            return
        with (each / _LOCK).open("a") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another process may decode into it
            # A process that has mapped the files keeps them until it ends.
            shutil.rmtree(each)
            del sizes[each]


def _last_use(folder: Path) -> float:
    lock = folder / _LOCK
    return lock.stat().st_mtime if lock.exists() else 0.0


def _intact(
    folder: Path, image: str, decoded: DecodedFrames, heartbeat: Callable[[], None]
) -> np.ndarray | None:
    """Return an image's frames, if each is there and matches its checksum."""
    try:
        checksums = json.loads((folder / f"{image}.json").read_text())
        frames = _map(folder, image)
    except (OSError, ValueError):
        return None
    width, height = decoded.size
    if frames.shape != (len(checksums), height, width, 3) or len(checksums) != len(decoded):
        return None
    for rows in _portions(decoded):
        if list(decoded.pool.map(_checksum, frames[rows])) != checksums[rows]:
            logger.warning("%s is damaged; its frames are decoded again", folder / f"{image}.npy")
            return None
        heartbeat()
    return frames


def _decode_into(
    folder: Path,
    decoded: DecodedFrames,
    images: Sequence[str],
    heartbeat: Callable[[], None],
) -> None:
    """Write the files of some images, all of them from one reading of the records."""
    width, height = decoded.size
    paths = {image: folder / f"{image}.npy" for image in images}
    unfinished = {image: path.with_suffix(".unfinished") for image, path in paths.items()}
    for image, path in paths.items():
        path.with_suffix(".json").unlink(missing_ok=True)
        unfinished[image].unlink(missing_ok=True)
    shape = (len(decoded), height, width, 3)
    maps = {image: new_map(path, shape, np.uint8) for image, path in unfinished.items()}
    checksums: dict[str, list[int]] = {image: [] for image in images}
    for rows in _portions(decoded):
        frames = decoded.read(images, np.arange(rows.start, rows.stop))
        for image, of_image in zip(images, frames, strict=True):
            maps[image][rows] = of_image
            checksums[image] += decoded.pool.map(_checksum, of_image)
        heartbeat()
    for image, path in paths.items():
        maps[image].flush()
        unfinished[image].replace(path)
        storage.write_text(path.with_suffix(".json"), json.dumps(checksums[image]))


def _portions(decoded: DecodedFrames) -> Iterator[slice]:
    """Yield the positions of all examples, a portion at a time."""
    step = max(_AT_A_TIME, num_cores())
    for start in range(0, len(decoded), step):
        yield slice(start, min(start + step, len(decoded)))


def _map(folder: Path, image: str) -> np.ndarray:
    return np.load(folder / f"{image}.npy", mmap_mode="r")


def _checksum(frame: np.ndarray) -> int:
    return google_crc32c.value(frame.tobytes())


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
