"""Encoded segments as tables in storage, where one worker leaves them for another."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq

from laser_dist import storage
from laser_dist.encoding.segments import EncodedPacket, EncodedSegment
from laser_dist.errors import UserError

_PACKETS = pa.schema(
    [
        ("pts", pa.int64()),
        ("dts", pa.int64()),
        ("duration", pa.int64()),
        ("is_keyframe", pa.bool_()),
        ("data", pa.large_binary()),  # of a clip that is not divided, more than 2 GB
    ]
)


class Unreadable(RuntimeError):
    """A segment cannot be read: no fault of the clip, so the runner tries again."""


@dataclass(frozen=True)
class StoredSegments:
    """Segments, each of which is read when it is needed.

    Attributes:
      places: paths or URLs of the tables, in order.
    """

    places: tuple[str, ...]

    def __iter__(self) -> Iterator[EncodedSegment]:
        """Yield each segment.

        Raises:
          Unreadable: storage fails.
        """
        for place in self.places:
            try:
                content = storage.read_bytes(place)
            except (UserError, OSError) as error:
                raise Unreadable(str(error)) from error
            yield unpacked(content)


def packed(segment: EncodedSegment) -> bytes:
    """Return a segment as a table in a Parquet file."""
    base = segment.time_base
    about = {"headers": segment.headers, "time_base": f"{base.numerator}/{base.denominator}"}
    table = pa.Table.from_pylist(
        [each._asdict() for each in segment.packets], schema=_PACKETS.with_metadata(about)
    )
    file = io.BytesIO()
    pq.write_table(table, file, compression="none")
    return file.getvalue()


def unpacked(content: bytes) -> EncodedSegment:
    """Return the segment of `packed`."""
    table = pq.read_table(pa.BufferReader(content))
    about = table.schema.metadata
    return EncodedSegment(
        headers=about[b"headers"],
        time_base=Fraction(about[b"time_base"].decode()),
        packets=tuple(EncodedPacket(**row) for row in table.to_pylist()),
    )
