"""Intermediate files of a measured source, between measuring and the dataset.

`SOURCE_ID-KEY.quality.parquet` holds the source's rows of the quality table,
`SOURCE_ID-KEY.pairs.parquet` its frame pairs, one row group each, so that each pair can be read on
its own. The key is a hash of everything that the content depends on, so a resumed build reuses only
what is still valid. The pairs are written last: they show that both files are complete.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from beam_pipelines.elements import (
    ORIGINAL,
    JndLevel,
    LabeledSource,
    MeasuredSource,
    PairSettings,
    QualityRow,
    SourceMetadata,
)
from beam_pipelines.rejects import Reject
from laser_dist import storage
from laser_dist.jnd.scale import NUM_LEVELS, Scale
from laser_dist.video.codec import VIDEOSET, encode_h264, x264_version
from laser_dist.video.frames import Clip
from laser_dist.video.images import jpeg_encoder

FORMAT = 4  # of these files, and of what is measured
PAIRS_SUFFIX = ".pairs.parquet"
QUALITY_SUFFIX = ".quality.parquet"
FRAMES = ("raw", "jnd1", "jnd2", "jnd3")

_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_NULLABLE = {"num_bits": pa.int64(), "bitrate_kbps": pa.float64()}
_PAIRS_SCHEMA = pa.schema(
    [
        pa.field("frame_index", pa.int64(), nullable=False),
        pa.field("timestamp_s", pa.float64(), nullable=False),
        pa.field("psnr_db", pa.list_(pa.float64(), NUM_LEVELS), nullable=False),
        *(pa.field(name, pa.binary(), nullable=False) for name in FRAMES),
    ]
)
_METADATA_KEY = b"metadata"


@dataclass(frozen=True, kw_only=True)
class MeasuredFiles:
    """A source whose two files exist.

    Attributes:
      source_id: id of the source.
      pairs: location of its frame pairs.
      quality: location of its quality rows.
      frame_indices: frame indices of the pairs, in the order of the file.
      num_bytes: total size of the frames.
      rejects: clips that could not be used.
      is_final: as `MeasuredSource.is_final`.
    """

    source_id: str
    pairs: str
    quality: str
    frame_indices: tuple[int, ...]
    num_bytes: int
    rejects: tuple[Reject, ...]
    is_final: bool


@dataclass(frozen=True, kw_only=True)
class PairMetadata:
    """A frame pair without its frames.

    Attributes:
      frame_index: position in the source.
      timestamp_s: time in the source.
      psnr_db: [3] RGB PSNR of each level's frame.
    """

    frame_index: int
    timestamp_s: float
    psnr_db: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StoredPair(PairMetadata):
    """A frame pair as stored in a file.

    Attributes:
      frames: name (`raw`, `jnd1`, ...) to PNG.
    """

    frames: dict[str, bytes]


def quality_schema(scale: Scale) -> pa.Schema:
    """Return the quality table's schema: `QualityRow`, the quantizer named by its scale (`qp`)."""
    return pa.schema(
        [
            pa.field(
                scale.name.lower() if field.name == "quantizer" else field.name,
                _NULLABLE.get(field.name) or _ARROW[field.type],
                nullable=field.name in _NULLABLE,
            )
            for field in fields(QualityRow)
        ]
    )


@lru_cache(maxsize=1)
def made_by() -> str:
    """Return what decides the content in addition to the input: format, encoder, libraries."""
    gray = np.full((1, 24, 16), 127, np.uint8)
    stream = encode_h264(Clip(gray, (Fraction(0),), Fraction(25)), qp=51)
    av_libraries = (av.__version__, sorted(av.library_versions.items()), x264_version(stream))
    libraries = (av_libraries, PIL.__version__, jpeg_encoder(), np.__version__)
    return repr((FORMAT, VIDEOSET, libraries))


def location_of(folder: str, source: LabeledSource, settings: PairSettings, suffix: str) -> str:
    """Return the location of one of a source's files.

    The key covers labels, settings, the names, sizes and times of the clips, and `made_by`, but not
    the folder of the clips.
    """
    clips = [*source.clips, *((ORIGINAL, file) for file in [source.original] if file)]
    files = [(quantizer, file.name, file.size, file.mtime_ns) for quantizer, file in clips]
    identity = (source.source_id, source.group_id, source.scale, source.fps, source.size)
    parts = repr((identity, source.levels, files, settings, made_by()))
    key = hashlib.sha256(parts.encode()).hexdigest()[:16]
    return storage.join(folder, f"{source.source_id}-{key}{suffix}")


def write_measured(
    measured: MeasuredSource, source: LabeledSource, settings: PairSettings, folder: str
) -> None:
    """Write both files, each complete or absent, the pairs last."""
    schema = quality_schema(source.scale)
    rows = [
        {name: value for name, value in zip(schema.names, asdict(row).values(), strict=True)}
        for row in measured.rows
    ]
    quality = _parquet(pa.Table.from_pylist(rows, schema=schema))
    storage.write_bytes(location_of(folder, source, settings, QUALITY_SUFFIX), quality)
    pairs = [
        {
            "frame_index": pair.frame_index,
            "timestamp_s": pair.timestamp_s,
            "psnr_db": list(pair.psnr_db),
            **{
                name: encode_png(frame)
                for name, frame in zip(FRAMES, (pair.raw, *pair.levels), strict=True)
            },
        }
        for pair in measured.pairs
    ]
    about = json.dumps(
        {
            "source": asdict(measured.metadata),
            "rejects": [asdict(reject) for reject in measured.rejects],
            "num_bytes": sum(len(row[name]) for row in pairs for name in FRAMES),
            "is_final": measured.is_final,
        }
    )
    table = pa.Table.from_pylist(pairs, schema=_PAIRS_SCHEMA)
    content = _parquet(table.replace_schema_metadata({_METADATA_KEY: about}), row_group_size=1)
    storage.write_bytes(location_of(folder, source, settings, PAIRS_SUFFIX), content)


def find_measured(
    source: LabeledSource, settings: PairSettings, folder: str
) -> MeasuredFiles | None:
    """Find the files of a source; None if they are missing or unreadable."""
    pairs, quality = (
        location_of(folder, source, settings, suffix) for suffix in (PAIRS_SUFFIX, QUALITY_SUFFIX)
    )
    if not (storage.exists(pairs) and storage.exists(quality)):
        return None
    try:
        with storage.open_binary(quality) as file:
            pq.ParquetFile(file)
        with storage.open_binary(pairs) as file:
            table = pq.ParquetFile(file)
            about = json.loads(table.schema_arrow.metadata[_METADATA_KEY])
            indices = table.read(columns=["frame_index"])["frame_index"].to_pylist()
    except (OSError, pa.ArrowException):  # the disk failed during the write
        return None
    return MeasuredFiles(
        source_id=source.source_id,
        pairs=pairs,
        quality=quality,
        frame_indices=tuple(indices),
        num_bytes=about["num_bytes"],
        rejects=tuple(Reject(**row) for row in about["rejects"]),
        is_final=about["is_final"],
    )


def read_pairs(location: str, rows: Iterable[int]) -> tuple[SourceMetadata, list[StoredPair]]:
    """Read some of a source's pairs, in the given order, and its metadata."""
    with storage.open_binary(location) as file:
        table = pq.ParquetFile(file)
        groups = [table.read_row_group(row).to_pylist()[0] for row in rows]
    pairs = [
        StoredPair(**_pair_metadata(row), frames={name: row[name] for name in FRAMES})
        for row in groups
    ]
    return _source_metadata(table), pairs


def read_metadata(location: str) -> tuple[SourceMetadata, list[PairMetadata]]:
    """Read all of a source's pairs without their frames, and its metadata."""
    with storage.open_binary(location) as file:
        table = pq.ParquetFile(file)
        names = [name for name in _PAIRS_SCHEMA.names if name not in FRAMES]
        rows = table.read(columns=names).to_pylist()
    return _source_metadata(table), [PairMetadata(**_pair_metadata(row)) for row in rows]


def _pair_metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "frame_index": row["frame_index"],
        "timestamp_s": row["timestamp_s"],
        "psnr_db": tuple(row["psnr_db"]),
    }


def _source_metadata(table: pq.ParquetFile) -> SourceMetadata:
    source = json.loads(table.schema_arrow.metadata[_METADATA_KEY])["source"]
    first, second, third = (
        JndLevel(**level | {name: tuple(level[name]) for name in ("samples", "viewers")})
        for level in source.pop("levels")
    )
    origins = tuple(source.pop("level_origins"))
    return SourceMetadata(**source, levels=(first, second, third), level_origins=origins)


def encode_png(frame: np.ndarray) -> bytes:
    """Encode a frame as PNG; a higher compression level saves 5% of the bytes for 4x the time."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="png", compress_level=1)
    return file.getvalue()


def _parquet(table: pa.Table, row_group_size: int | None = None) -> bytes:
    file = io.BytesIO()
    # PNG does not compress further.
    pq.write_table(table, file, row_group_size=row_group_size, compression="none")
    return file.getvalue()
