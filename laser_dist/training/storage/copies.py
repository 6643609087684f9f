"""What lies in a bucket, brought to this machine for programs that read a disk alone."""

import shutil
from collections.abc import Collection
from pathlib import Path

from laser_dist.errors import UserError
from laser_dist.training.storage.run_store import RunStore
from laser_dist.training.storage.store import is_url, told_to_user

CONFIG, PREDICTOR = "config.json", "predictor.keras"
METADATA = "metadata.json"  # of a dataset, with its fingerprint
RUN_FOLDERS = ("models", "logs/metrics")
TABLES = ("labels", "quality")


def local_run(place: str) -> Path:
    """The folder of a run: its settings, models and figures, not its checkpoints and features.

    Args:
      place: of the run, path or URL.

    Raises:
      UserError: no run there, or a bucket that cannot be read.
    """
    store = RunStore(place)
    if store.is_remote:
        with told_to_user(place):
            for folder, name in (("", CONFIG), ("models", PREDICTOR)):
                if name not in store.names(store.local / folder, patiently=False):
                    raise UserError(
                        f"Run {place}", "a finished training", f"no {name}", "Train it to its end."
                    )
            store.fetch(store.local / CONFIG)
            for name in RUN_FOLDERS:
                store.fetch_all(store.local / name, exactly=True)
    return store.local


def local_dataset(place: str, splits: Collection[str]) -> Path:
    """The folder of a prepared dataset: its tables, and the examples of some splits.

    Files that an earlier call has brought are kept, unless the dataset is another one now.

    Args:
      place: of one version of the dataset, path or URL.
      splits: whose examples are wanted. Of others there are labels, if the dataset has them as a
        table; else their examples are brought too.

    Raises:
      UserError: a bucket that cannot be read.
    """
    if not is_url(place):
        return Path(place)
    store = RunStore(place)
    with told_to_user(place):
        metadata = store.local / METADATA
        if not (metadata.exists() and metadata.read_bytes() == store.content(metadata)):
            shutil.rmtree(store.local, ignore_errors=True)
        for table in TABLES:
            store.fetch_all(store.local / table, exactly=True)
        with_table = {path.stem for path in (store.local / "labels").glob("*.parquet")}
        for name in store.names(store.local):
            is_shard = "-of-" in name
            split = name.partition(".")[0].rpartition("-")[2]
            if not is_shard:
                store.fetch(store.local / name)
            elif split in splits or split not in with_table:
                store.fetch(store.local / name, reuse=True)
    return store.local
