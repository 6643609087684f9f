"""The table that lies beside a dataset's examples: what they hold but their frames."""

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from laser_dist import storage
from laser_dist.errors import UserError


def read_label_table(
    dataset: str | Path, split: str, num_examples: int, columns: Sequence[str]
) -> pa.Table | None:
    """A row for each example of a split, in stored order; None of a dataset without the table.

    Args:
      dataset: location of the prepared dataset, path or URL.
      split: such as "train".
      num_examples: of the split.
      columns: wanted.

    Raises:
      UserError: a table that is damaged or of another build.
    """
    place = storage.join(dataset, "labels", f"{split}.parquet")
    if not storage.exists(place):
        return None
    content = storage.read_bytes(place)
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise _bad(place, " ".join(str(error).split())) from error
    if len(table) != num_examples:
        raise _bad(place, f"{len(table)} rows of {num_examples} examples")
    if missing := [name for name in columns if name not in table.column_names]:
        raise _bad(place, f"no column {missing[0]}")
    return table.select(list(columns))


def _bad(place: str, got: str) -> UserError:
    return UserError(f"Labels {place}", "a row for each example", got, "Build the dataset anew.")
