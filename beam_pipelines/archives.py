"""Files inside archives, read where they are: nothing is unpacked to a disk.

A ZIP says itself where its members lie. A `.tar.gz` is a stream: it is read through once, for its
members' names and for a point every 16 MB from which unpacking can start again. With that index any
member is a file like another, so that many workers may read one archive at a time. Names of members
are only ever looked at, never written to, so none can lead out of a folder.
"""

import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from beam_pipelines import storage
from beam_pipelines.rejects import ARCHIVE, Reject
from beam_pipelines.storage import StoredFile

TAR_SUFFIXES = (".tar.gz", ".tgz")
_REPLACEMENT = "_fix"
_POINT_EVERY_BYTES = 1 << 24


def is_archive(file: StoredFile) -> bool:
    """Whether a file is an archive that can be looked into."""
    return file.name.endswith((*TAR_SUFFIXES, ".zip"))


def archives_among(files: Sequence[StoredFile]) -> tuple[list[StoredFile], list[Reject]]:
    """The archives that are to be read, and those that were issued anew under another name."""
    return _without_replaced([file for file in files if is_archive(file)])


def needs_index(archive: StoredFile, index_folder: str) -> bool:
    """Whether an archive must be read through before its members are known."""
    is_tar = archive.name.endswith(TAR_SUFFIXES)
    return is_tar and not storage.exists(_listing_place(archive, index_folder))


def members_of(archive: StoredFile, index_folder: str) -> tuple[list[StoredFile], list[Reject]]:
    """The files in an archive, and what of it cannot be used.

    Args:
      archive: with an index in `index_folder`, if it needs one.
      index_folder: of indexes.
    """
    if archive.name.endswith(TAR_SUFFIXES):
        return _members_of_tar(archive, index_folder)
    return _members_of_zip(archive)


def read_stored(file: StoredFile) -> bytes:
    """A file's content, wherever it is.

    Raises:
      OSError: it cannot be read, or its archive is damaged there.
    """
    if not file.member:
        return storage.read_bytes(file.place)
    try:
        if not file.index:
            return _open_zip(file.place).read(file.member)
        unpacked = _open_tar(file.place, file.index)
        unpacked.seek(file.offset)
        content = unpacked.read(file.size)
    except (zipfile.BadZipFile, ValueError, EOFError, RuntimeError, _unpacking_error()) as error:
        raise OSError(f"{file} cannot be unpacked ({error})") from error
    if len(content) != file.size:
        raise OSError(f"{file} is cut: {len(content)} of {file.size} bytes")
    return content


def index_tar(archive: StoredFile, index_folder: str) -> None:
    """Reads a `.tar.gz` through and writes down where its members are.

    What can be read of a damaged archive is kept; its list of members then says what was wrong.
    """
    import indexed_gzip

    members: list[dict[str, Any]] = []
    fault = ""
    with (
        storage.open_binary(archive.place) as file,
        indexed_gzip.IndexedGzipFile(fileobj=file, spacing=_POINT_EVERY_BYTES) as unpacked,
    ):
        try:
            with tarfile.open(fileobj=unpacked, mode="r:") as tar:
                for member in tar:
                    if member.isfile():
                        place = {"offset": member.offset_data, "size": member.size}
                        members.append({"name": member.name, **place})
        except (tarfile.TarError, OSError, EOFError, ValueError, _unpacking_error()) as error:
            fault = str(error)
        points = io.BytesIO()
        if members:
            unpacked.export_index(fileobj=points)
    storage.write_bytes(_points_place(archive, index_folder), points.getvalue())
    listing = json.dumps({"members": members, "fault": fault})
    storage.write_bytes(_listing_place(archive, index_folder), listing.encode())


def _without_replaced(archives: list[StoredFile]) -> tuple[list[StoredFile], list[Reject]]:
    """Leaves out archives that were issued anew: `part_3_fix` stands in place of `part_3`."""
    stems = {_stem(archive) for archive in archives}
    kept, rejects = [], []
    for archive in archives:
        if _stem(archive) + _REPLACEMENT in stems:
            why = f"replaced by {_stem(archive)}{_REPLACEMENT}"
            rejects.append(Reject(what=ARCHIVE, where=archive.place, stage="find", reason=why))
        else:
            kept.append(archive)
    return kept, rejects


def _stem(archive: StoredFile) -> str:
    return archive.name.removesuffix(".zip").removesuffix(".tgz").removesuffix(".tar.gz")


def _members_of_tar(
    archive: StoredFile, index_folder: str
) -> tuple[list[StoredFile], list[Reject]]:
    listing = json.loads(storage.read_bytes(_listing_place(archive, index_folder)))
    points = _points_place(archive, index_folder)
    rows = [(row["name"], row["offset"], row["size"]) for row in listing["members"]]
    return _checked(archive, rows, points, listing["fault"])


def _members_of_zip(archive: StoredFile) -> tuple[list[StoredFile], list[Reject]]:
    try:
        entries = _open_zip(archive.place).infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        return _checked(archive, [], "", str(error))
    rows = [(entry.filename, 0, entry.file_size) for entry in entries if not entry.is_dir()]
    return _checked(archive, rows, "", "")


def _checked(
    archive: StoredFile, rows: list[tuple[str, int, int]], points: str, fault: str
) -> tuple[list[StoredFile], list[Reject]]:
    members: list[StoredFile] = []
    rejects: list[Reject] = []
    if fault:
        why = f"damaged or cut ({fault}); {len(rows)} files in it can be read"
        rejects.append(Reject(what=ARCHIVE, where=archive.place, stage="find", reason=why))
    for name, offset, size in rows:
        path = PurePosixPath(name)
        where = f"{archive.place}:{name}"
        if path.is_absolute() or ".." in path.parts:
            why = "a name that leads out of its archive"
            rejects.append(Reject(what=ARCHIVE, where=where, stage="find", reason=why))
        elif not any(part.startswith(".") for part in path.parts):
            member = StoredFile(archive.place, name, size, archive.modified_s, offset, points)
            members.append(member)
    return members, rejects


def _key(archive: StoredFile) -> str:
    return f"{archive.name}-{archive.size}-{archive.modified_s:.0f}"


def _points_place(archive: StoredFile, index_folder: str) -> str:
    return storage.join(index_folder, f"{_key(archive)}.gzidx")


def _listing_place(archive: StoredFile, index_folder: str) -> str:
    return storage.join(index_folder, f"{_key(archive)}.json")


# A process reads the clips of one source after another: mostly of one archive.
@lru_cache(maxsize=2)
def _open_zip(place: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(storage.open_binary(place))


@lru_cache(maxsize=2)
def _open_tar(place: str, index: str) -> Any:
    import indexed_gzip

    unpacked = indexed_gzip.IndexedGzipFile(fileobj=storage.open_binary(place))
    unpacked.import_index(fileobj=io.BytesIO(storage.read_bytes(index)))
    return unpacked


def _unpacking_error() -> type[Exception]:
    import indexed_gzip

    return indexed_gzip.ZranError
