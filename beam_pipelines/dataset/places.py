"""Where the build of a dataset reads and writes."""

from dataclasses import dataclass

from laser_dist import storage


@dataclass(frozen=True, kw_only=True)
class BuildPlaces:
    """Where a build reads and writes; paths or URLs.

    Attributes:
      dataset: folder of the dataset's files.
      work: folder of what a later run may take over.
      archives: folder of archives' indexes.
      refusal: of the table of rejects that a refused build leaves.
    """

    dataset: str
    work: str
    archives: str
    refusal: str


def places_of(dataset: str) -> BuildPlaces:
    """Where the build of a version's folder works: beside it, hidden from any search.

    Args:
      dataset: `DATA_DIR/NAME/CONFIG/VERSION`, or TFDS's temporary name of it.
    """
    parent, version = storage.split(dataset)
    version = version.rpartition("_")[2]
    data_dir, _ = storage.split(storage.split(parent)[0])
    return BuildPlaces(
        dataset=str(dataset),
        work=storage.join(parent, f".unfinished-{version}"),
        archives=archives_folder(data_dir),
        refusal=storage.join(parent, f"rejected-{version}.parquet"),
    )


def archives_folder(data_dir: str) -> str:
    """Where the indexes of archives are kept: all datasets below may be built from the same."""
    return storage.join(data_dir, ".archives")
