"""What lies in a bucket, brought to this machine for programs that read a disk alone.

The copies lie in the system's folder for what is temporary, by the name of their place; a later
call takes over what is there. Several processes may bring the same at one time.
"""

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from laser_dist.errors import UserError
from laser_dist.training.storage.run_store import RunStore
from laser_dist.training.storage.store import Folder, is_url, told_to_user

CONFIG, MODELS, PREDICTOR = "config.json", "models", "predictor.keras"
FIGURES = "logs/metrics"
_MODEL, _GIVEN = ".keras", " given"
METADATA = "metadata.json"  # of a dataset, with its fingerprint
LABELS, QUALITY = "labels", "quality"


def _nobody(_: str) -> None:
    """Tells nobody."""


def local_run(
    place: str, told: Callable[[str], None] = _nobody, *, predictor_alone: bool = False
) -> Path:
    """The folder of a finished run: its settings, models and figures.

    Args:
      place: of the run, path or URL.
      told: given a line on what is brought.
      predictor_alone: of models the predictor, of figures none.

    Raises:
      UserError: no finished run in the bucket, or a bucket that cannot be read. What a path holds
        is not looked at.
    """
    if not is_url(place):
        return Path(place)
    store = RunStore(place, told)
    with told_to_user(place):
        Folder(place).check_bucket()
        models = store.names(store.local / MODELS, patiently=False)
        has_config = CONFIG in store.names(store.local, patiently=False)
        if not (has_config and PREDICTOR in models):
            missing = f"{MODELS}/{PREDICTOR}" if has_config else CONFIG
            hint = "Check its name, or train it to its end."
            raise UserError(f"Run {place}", "a finished training", f"no {missing}", hint)
        told(f"bringing the models of {place}")
        store.fetch(store.local / CONFIG)
        store.fetch(store.local / MODELS / PREDICTOR)
        for name in () if predictor_alone else (MODELS, FIGURES):
            store.fetch_all(store.local / name, exactly=True)
    return store.local


def local_models(place: str, told: Callable[[str], None] = _nobody) -> Path:
    """The folder of a run, finished or not, or of models: all the models that it has.

    Args:
      place: of the folder, path or URL.
      told: given a line on what is brought.

    Raises:
      UserError: a bucket that cannot be read. What a path holds is not looked at.
    """
    if not is_url(place):
        return Path(place)
    # Not where that run is trained, if it is trained on this machine right now.
    store = RunStore(place, told, _GIVEN)
    with told_to_user(place):
        Folder(place).check_bucket()
        told(f"bringing the models of {place}")
        for folder in (store.local / MODELS, store.local):
            there = [name for name in store.names(folder) if name.endswith(_MODEL)]
            for old in folder.glob(f"*{_MODEL}"):
                if old.name not in there and not old.name.startswith("."):
                    old.unlink(missing_ok=True)
            for name in there:
                store.fetch(folder / name)
    return store.local


def local_dataset(
    place: str, splits: Collection[str], told: Callable[[str], None] = _nobody
) -> Path:
    """The folder of a prepared dataset: its tables, and the examples of some splits.

    Args:
      place: of one version of the dataset, path or URL.
      splits: whose examples are wanted. Of others there are labels, if the dataset has them as a
        table; else their examples are brought too.
      told: given a line on how much has been brought.

    Raises:
      UserError: a bucket that cannot be read.
    """
    if not is_url(place):
        return Path(place)
    store = RunStore(place, told)
    with told_to_user(place):
        metadata = store.local / METADATA
        if metadata.exists() and metadata.read_bytes() != store.content(metadata):
            shutil.rmtree(store.local, ignore_errors=True)  # of another dataset at this place
        store.fetch(metadata)
        tables = (LABELS, QUALITY)
        wanted = [
            store.local / table / name
            for table in tables
            for name in store.names(store.local / table)
        ]
        with_labels = {path.stem for path in wanted if path.parent.name == LABELS}
        for name in store.names(store.local):
            split = _split_of(name)
            if name not in tables and (split in (None, *splits) or split not in with_labels):
                wanted.append(store.local / name)
        for number, path in enumerate(wanted, start=1):
            told(f"bringing the dataset here, file {number} of {len(wanted)}")
            store.fetch(path, reuse=True)
    return store.local


@contextmanager
def named_by_place(*places: str) -> Iterator[None]:
    """Lets errors on a copy speak of what was copied."""
    try:
        yield
    except UserError as error:
        urls = [place for place in places if is_url(place)]
        if not urls:
            raise
        renamed = error
        for place in urls:
            for purpose in ("", _GIVEN):
                renamed = renamed.naming(str(RunStore(place, purpose=purpose).local), place)
        raise renamed from error


def _split_of(name: str) -> str | None:
    """The split whose examples a file has, such as `videoset_jnd-train.tfrecord-00000-of-00064`."""
    stem, _, rest = name.partition(".")
    return stem.rpartition("-")[2] if "-of-" in rest else None
