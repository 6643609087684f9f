"""Files inside archives, read in place: nothing is unpacked to a disk.

A ZIP file lists its members. A `.tar.gz` is a stream: `tar_index` scans it once, for the names
of its members and for a point every 16 MB at which decompression can restart. With that index,
members can be read like other files, and many workers can read one archive. Members are never
written under their names, so no name can lead out of a folder.
"""

import atexit
import errno
import hashlib
import io
import json
import lzma
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import Any

from beam_pipelines.rejects import ARCHIVE, Reject
from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.storage import StoredFile
from laser_dist.video.containers import VideoError

TAR_SUFFIXES = (".tar.gz", ".tgz")
_SUFFIXES = (*TAR_SUFFIXES, ".zip")
_REPLACEMENT = "_fix"
# Compared in lower case, so that .ZIP is among them.
_OTHER_SUFFIXES = (
    *_SUFFIXES,
    ".tar",
    ".tar.bz2",
    ".tar.xz",
    ".tar.zst",
    ".tbz2",
    ".txz",
    ".7z",
    ".rar",
)
_RESOLUTION = re.compile(r"\d{3,4}x\d{3,4}")
_FORMAT = 1  # of the indexes
_POINT_EVERY_BYTES = 1 << 24
_READ_AHEAD_BYTES = 1 << 18
REPLACE_HINT = "Replace it with a complete copy."
# What the standard library raises for damaged or changed archives, in addition to OSError.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ValueError,
    EOFError,
    KeyError,  # the member no longer exists
    RuntimeError,  # encrypted; includes NotImplementedError
)


def is_archive(file: StoredFile) -> bool:
    """Return whether a file is an archive of a supported kind."""
    return file.name.endswith(_SUFFIXES)


def archives_among(files: Sequence[StoredFile]) -> tuple[list[StoredFile], list[Reject]]:
    """Return the archives to read, and rejects for superseded and unsupported ones."""
    others = [file for file in files if file.name.lower().endswith(_OTHER_SUFFIXES)]
    kept, rejects = _without_superseded([file for file in files if is_archive(file)])
    why = f"not one of {', '.join(_SUFFIXES)}; unpack it to use its files"
    rejects += [_reject(file.location, why) for file in others if not is_archive(file)]
    return kept, rejects


def needs_index(archive: StoredFile, index_folder: str) -> bool:
    """Return whether an archive must be scanned before its members are known."""
    is_tar = archive.name.endswith(TAR_SUFFIXES)
    return is_tar and not storage.exists(index_locations(archive, index_folder)[1])


def members_of(archive: StoredFile, index_folder: str) -> tuple[list[StoredFile], list[Reject]]:
    """List the files in an archive.

    Args:
      archive: an archive; a `.tar.gz` must have an index in `index_folder`.
      index_folder: folder of indexes.

    Returns:
      The files, and rejects for members that cannot be used and for damage.

    Raises:
      UserError: the archive cannot be read, which is no damage.
    """
    if archive.name.endswith(TAR_SUFFIXES):
        points, listing_location = index_locations(archive, index_folder)
        listing = json.loads(storage.read_bytes(listing_location))
        rows = [(row["name"], row["offset"], row["size"]) for row in listing["members"]]
        return _checked(archive, rows, points, listing["fault"])
    try:
        entries = _open_zip(archive.location, archive.modified_s).infolist()
    except (*_DAMAGE, OSError) as error:
        _raise_unless_damaged(error, archive)
        return _checked(archive, [], "", str(error))
    rows = [(entry.filename, 0, entry.file_size) for entry in entries if not entry.is_dir()]
    return _checked(archive, rows, "", "")


def read_stored(file: StoredFile) -> bytes:
    """Return the content of a file or of a member of an archive.

    Raises:
      VideoError: its archive is damaged there.
      UserError: it cannot be read, though another attempt may succeed.
    """
    try:
        if not file.member:
            return storage.read_bytes(file.location)
        if not file.index:
            return _open_zip(file.location, file.modified_s).read(file.member)
        archive = _open_tar(file.location, file.index)
        archive.seek(file.offset)
        content = archive.read(file.size)
    except (*_DAMAGE, OSError) as error:
        _raise_unless_damaged(error, file)
        raise VideoError(f"{file} cannot be unpacked ({error}).", hint=REPLACE_HINT) from error
    if len(content) != file.size:
        problem = f"is truncated: {len(content)} of {file.size} bytes"
        raise VideoError(f"{file} {problem}.", hint=REPLACE_HINT)
    return content


def unpacked(file: Any) -> Any:
    """Open the decompressed content of a gzip file, seekable once it is indexed.

    Args:
      file: open for reading in binary.
    """
    import indexed_gzip

    return indexed_gzip.IndexedGzipFile(
        fileobj=file,
        spacing=_POINT_EVERY_BYTES,
        # What it reads ahead is lost where the stream is damaged, and held for each archive.
        buffer_size=_READ_AHEAD_BYTES,
        skip_crc_check=True,  # it would verify only some of the streams
    )


def index_locations(archive: StoredFile, index_folder: str) -> tuple[str, str]:
    """Return the locations of an archive's restart points and of its list of members.

    They differ for archives that have been replaced.
    """
    parts = repr((archive.location, archive.size, archive.modified_s, _FORMAT))
    key = f"{archive.name}-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"
    return storage.join(index_folder, f"{key}.gzidx"), storage.join(index_folder, f"{key}.json")


def cannot_read(file: StoredFile, error: OSError | UserError) -> UserError:
    """Return the error of a file that cannot be read; another attempt may succeed."""
    if isinstance(error, UserError):  # of a bucket
        return error
    # Without "[Errno ...]", which would be taken for an error of the output folder.
    return UserError(
        f"{file} cannot be read: {error.strerror or type(error).__name__}.",
        hint="Check the file, then run the command again.",
    )


def _raise_unless_damaged(error: Exception, file: StoredFile) -> None:
    """Raise a `UserError` if a file could not be read, which says nothing about its content."""
    # `indexed_gzip` and `zipfile` raise their own errors for one of the file.
    for each in (error, error.__cause__, error.__context__):
        # Damaged positions are sought in vain; an error without a number is of `indexed_gzip`.
        is_damage = isinstance(each, OSError) and each.errno in (None, errno.EINVAL)
        if isinstance(each, UserError | OSError) and not is_damage:
            raise cannot_read(file, each) from error


def _reject(where: str, why: str) -> Reject:
    return Reject(what=ARCHIVE, where=where, stage="find", why=why)


def _without_superseded(archives: list[StoredFile]) -> tuple[list[StoredFile], list[Reject]]:
    """Leave out archives that were reissued: `part_3_fix` supersedes `part_3`."""
    parts = {_part(archive, _stem(archive)) for archive in archives}
    kept, rejects = [], []
    for archive in archives:
        reissue = _stem(archive) + _REPLACEMENT
        if _part(archive, reissue) in parts:
            rejects.append(_reject(archive.location, f"superseded by {reissue}"))
        else:
            kept.append(archive)
    return kept, rejects


def _part(archive: StoredFile, stem: str) -> tuple[str, str]:
    """Return folder and name; only the name if that states the resolution."""
    folder = archive.location.rpartition("/")[0]
    return ("", stem) if _RESOLUTION.search(stem) else (folder, stem)


def _stem(archive: StoredFile) -> str:
    return re.sub(r"\.(tar\.gz|tgz|zip)$", "", archive.name)


def _checked(
    archive: StoredFile, rows: list[tuple[str, int, int]], points: str, fault: str
) -> tuple[list[StoredFile], list[Reject]]:
    members: list[StoredFile] = []
    rejects: list[Reject] = []
    if fault:
        why = f"damaged or truncated ({fault}); {len(rows)} files found"
        rejects.append(_reject(archive.location, why))
    for name, offset, size in rows:
        path = PurePosixPath(name)
        where = f"{archive.location}:{name}"
        if path.is_absolute() or ".." in path.parts:
            rejects.append(_reject(where, "a name that leads out of the archive"))
        elif name.endswith(_SUFFIXES):
            rejects.append(_reject(where, "an archive inside an archive is not read"))
        elif not any(part.startswith(".") for part in path.parts):
            member = StoredFile(archive.location, name, size, archive.modified_s, offset, points)
            members.append(member)
    return members, rejects


class _OpenArchives:
    """The archives read last, kept open; the least recently used one is closed for another."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: OrderedDict[tuple, tuple[Any, ExitStack]] = OrderedDict()
        atexit.register(self.close)

    def get(self, key: tuple, opened: Callable[[ExitStack], Any]) -> Any:
        """Return what `opened` returned for the key; it pushes what must be closed to the stack."""
        if key not in self._open:
            with ExitStack() as stack:
                self._open[key] = opened(stack), stack.pop_all()
            while len(self._open) > self._most:
                self._open.popitem(last=False)[1][1].close()
        self._open.move_to_end(key)
        return self._open[key][0]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1][1].close()


# A process reads the clips of one source after another, mostly from one archive.
_OPEN = _OpenArchives(most=2)


def _open_zip(location: str, modified_s: float) -> zipfile.ZipFile:
    def opened(stack: ExitStack) -> zipfile.ZipFile:
        file = stack.enter_context(storage.open_binary(location))
        return stack.enter_context(zipfile.ZipFile(file))

    # The time is part of the key, so that a replaced archive is opened again.
    return _OPEN.get((location, modified_s), opened)


def _open_tar(location: str, index: str) -> Any:
    def opened(stack: ExitStack) -> Any:
        file = stack.enter_context(storage.open_binary(location))
        archive = stack.enter_context(unpacked(file))
        archive.import_index(fileobj=io.BytesIO(storage.read_bytes(index)))
        return archive

    return _OPEN.get((location, index), opened)
