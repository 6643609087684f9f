"""Local copies of runs, datasets and clips in buckets, for programs that only read a disk.

Those of runs and datasets are in the user's cache directory, named after their location, and are
reused. Several processes may make the same copy at a time.
"""

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from laser_dist.errors import UserError
from laser_dist.storage import files
from laser_dist.storage.locations import is_url, join
from laser_dist.storage.run_files import RunFiles

CONFIG, MODELS, PREDICTOR = "config.json", "models", "predictor.keras"
METRICS = "logs/metrics"
METADATA = "metadata.json"  # of a dataset, with its fingerprint
LABELS, QUALITY = "labels", "quality"
_MODEL, _FOR_ANOTHER_RUN = ".keras", " given"


def _ignore(_: str) -> None:
    pass


def local_run(
    location: str, on_progress: Callable[[str], None] = _ignore, *, predictor_only: bool = False
) -> Path:
    """Return the folder of a finished run: its settings, models and metrics.

    Args:
      location: path or URL of the run. A path is returned unchecked.
      on_progress: called with a line about the download.
      predictor_only: whether to leave out metrics and all models but the predictor.

    Raises:
      UserError: there is no finished run in the bucket, or the bucket cannot be read.
    """
    if not is_url(location):
        return Path(location)
    run = RunFiles(location)
    on_progress(f"Downloading the models of {location}")
    for path in (CONFIG, f"{MODELS}/{PREDICTOR}"):
        if not run.fetch(run.local / path):
            files.list_folder(location)  # it reports a bucket that does not exist
            raise UserError(
                f"{location} is not a finished run: it has no {path}.",
                hint="Check its name, or resume its training.",
            )
    for name in () if predictor_only else (MODELS, METRICS):
        run.fetch_all(run.local / name, exactly=True)
    return run.local


def local_models(location: str, on_progress: Callable[[str], None] = _ignore) -> Path:
    """Return the folder of a run, finished or not, or of models: with all its models.

    Args:
      location: path or URL of the folder. A path is returned unchecked.
      on_progress: called with a line about the download.

    Raises:
      UserError: the bucket cannot be read.
    """
    if not is_url(location):
        return Path(location)
    # Apart from the copy that a training on this machine may be writing to right now.
    run = RunFiles(location, _FOR_ANOTHER_RUN)
    on_progress(f"Downloading the models of {location}")
    for folder in (run.local / MODELS, run.local):
        run.fetch_all(folder, suffix=_MODEL, exactly=True)
    return run.local


def local_dataset(
    location: str, splits: Collection[str], on_progress: Callable[[str], None] = _ignore
) -> Path:
    """Return the folder of a prepared dataset: its tables, and the examples of some splits.

    Args:
      location: path or URL of one version of the dataset. A path is returned unchecked.
      splits: splits whose examples are needed; of the others only the label table is downloaded.
      on_progress: called with a line about the download.

    Raises:
      UserError: the bucket cannot be read.
    """
    if not is_url(location):
        return Path(location)
    run = RunFiles(location)
    metadata = run.local / METADATA
    if metadata.exists() and not _is_current(metadata, join(location, METADATA)):
        shutil.rmtree(run.local, ignore_errors=True)  # of an earlier dataset at this location
    run.fetch(metadata)
    tables = (LABELS, QUALITY)
    wanted = [run.local / table / name for table in tables for name in run.names(run.local / table)]
    for name in run.names(run.local):
        if name not in tables and _split_of(name) in (None, *splits):
            wanted.append(run.local / name)
    for number, path in enumerate(wanted, start=1):
        on_progress(f"Downloading the dataset: file {number} of {len(wanted)}")
        run.fetch(path, reuse=True)
    return run.local


@contextmanager
def temporary_copy(location: str) -> Iterator[Path]:
    """Yield the path of a file, downloaded for the block if it is in a bucket.

    Nothing is there if the file is missing.

    Raises:
      UserError: the bucket cannot be read.
    """
    if not is_url(location):
        yield Path(location)
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        files.download(location, path)
        yield path


@contextmanager
def naming_locations(*locations: str) -> Iterator[None]:
    """Make errors about local copies name the locations that were copied."""
    try:
        yield
    except UserError as error:
        urls = [location for location in locations if is_url(location)]
        if not urls:
            raise
        renamed = error
        for url in urls:
            for purpose in ("", _FOR_ANOTHER_RUN):
                renamed = renamed.naming(str(RunFiles(url, purpose).local), url)
        raise renamed from error


def _is_current(path: Path, location: str) -> bool:
    try:
        return path.read_bytes() == files.read_bytes(location)
    except FileNotFoundError:
        return False


def _split_of(name: str) -> str | None:
    """Return the split that a file such as `videoset_jnd-train.tfrecord-00000-of-00064` is of."""
    stem, _, rest = name.partition(".")
    return stem.rpartition("-")[2] if "-of-" in rest else None
