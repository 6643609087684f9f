"""Label table of a dataset: what its examples hold, without the frames."""

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from laser_dist import storage
from laser_dist.errors import UserError


def read_label_table(
    dataset: str | Path, split: str, num_examples: int, columns: Sequence[str]
) -> pa.Table:
    """Return a row for each example of a split, in stored order.

    Args:
      dataset: path or URL of the prepared dataset.
      split: name of the split, such as "train".
      num_examples: number of examples of the split.
      columns: names of the columns to return.

    Raises:
      UserError: the table is missing, damaged or of another build.
    """
    place = storage.join(dataset, "labels", f"{split}.parquet")
    try:
        content = storage.read_bytes(place)
    except FileNotFoundError as error:
        raise _bad(place, "it is missing") from error
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise _bad(place, "it is not a Parquet file") from error
    if len(table) != num_examples:
        raise _bad(place, f"it has {len(table)} rows for {num_examples} examples")
    if missing := [name for name in columns if name not in table.column_names]:
        raise _bad(place, f"it has no column {missing[0]}")
    return table.select(list(columns))


def _bad(location: str, problem: str) -> UserError:
    message = f"The label table {location} cannot be used: {problem}."
    return UserError(message, hint="Build the dataset again.")
