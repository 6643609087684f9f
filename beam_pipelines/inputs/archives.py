"""Files inside archives, read in place: nothing is unpacked to a disk.

A ZIP file lists its members. A `.tar.gz` is a stream: `tar_index` scans it once, for the names
of its members and for a point every 16 MB at which decompression can restart. With that index,
members can be read like other files, and many workers can read one archive. Members are never
written under their names, so no name can lead out of a folder.

Archives may come from anyone. What they state is checked against what is there before memory is
taken for it.
"""

import atexit
import errno
import hashlib
import io
import json
import lzma
import re
import stat
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import IO, Any

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
MAX_MEMBERS = storage.limit("MAX_MEMBERS", 200_000)
"""Largest number of files and folders in an archive."""
MAX_MEMBER_NAME = 1000
"""Longest name of a member, folders included, in characters."""
MAX_RATIO = storage.limit("MAX_RATIO", 100)
"""Largest ratio of unpacked to packed size, of a ZIP file's member or of a whole `.tar.gz`."""
MAX_HEADER_BYTES = 1 << 16
"""Largest size of all that a tar archive states about one member."""
RATIO_FREE_BYTES = 16 << 20
"""Unpacked size up to which `MAX_RATIO` does not apply: small files can be very regular."""

TOO_MANY = f"more than {MAX_MEMBERS:,} members"
_MAX_LIST_BYTES = 128 * MAX_MEMBERS  # the list at the end of a ZIP file
_FORMAT = (2, MAX_MEMBERS, MAX_RATIO)  # of the indexes
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
    IndexError,  # the archive has changed
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
        in_tar = ((_member(archive, index=points, **row), why) for row, why in listing["members"])
        return _checked(archive, in_tar, listing["fault"])
    try:
        entries = _open_zip(archive).infolist()
        if len(entries) > MAX_MEMBERS:
            raise zipfile.BadZipFile(TOO_MANY)
    except (*_DAMAGE, OSError) as error:
        _raise_unless_damaged(error, archive)
        return _checked(archive, [], str(error))
    in_zip = (
        (
            _member(archive, entry.filename, entry.file_size, number, crc=entry.CRC),
            _problem_in_zip(entry, archive.size),
        )
        for number, entry in enumerate(entries)
        if not entry.filename.endswith("/")
    )
    return _checked(archive, in_zip, "")


def read_stored(file: StoredFile) -> bytes:
    """Return the content of a file or of a member of an archive, as it was listed.

    It takes no more memory than the listed size, and as much again while it unpacks a ZIP file.

    Raises:
      VideoError: its archive is damaged there.
      UserError: it has changed since it was listed; or it cannot be read, though another attempt
        may succeed.
    """
    try:
        if not file.member:
            return storage.read_listed(file)
        content = _unpacked_member(file)
    except (*_DAMAGE, OSError) as error:
        storage.check_unchanged(file)  # if it has changed, nothing is damaged
        _raise_unless_damaged(error, file)
        raise VideoError(f"{file} cannot be unpacked ({error}).", hint=REPLACE_HINT) from error
    storage.check_unchanged(file)
    if len(content) != file.size:
        problem = f"is truncated: {len(content)} of {file.size} bytes"
        raise VideoError(f"{file} {problem}.", hint=REPLACE_HINT)
    return content


def _unpacked_member(file: StoredFile) -> bytes:
    if file.index:
        archive = _open_tar(file)
        archive.seek(file.offset)
        return archive.read(file.size)
    archive = _open_zip(file)
    # By its position in the list of members, since a name can occur twice.
    with archive.open(archive.infolist()[file.offset]) as member:
        return member.read(file.size + 1)


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
    parts = repr((archive.location, archive.size, archive.mtime_ns, _FORMAT))
    # Of a name, no more than fits into a name.
    key = f"{archive.name[:40]}-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"
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


def _member(
    archive: StoredFile,
    name: str,
    size: int,
    offset: int,
    *,
    index: str = "",
    crc: int | None = None,
) -> StoredFile:
    place = (archive.location, name, size, archive.mtime_ns)
    return StoredFile(*place, archive_size=archive.size, offset=offset, index=index, crc=crc)


def _problem_in_zip(entry: zipfile.ZipInfo, archive_size: int) -> str:
    """Return why a member of a ZIP file is not read; "" if it is."""
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "a link, which is not followed"
    # The other methods of zipfile unpack as much as there is, whatever is asked for.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compressed by another method than deflate"
    if not 0 <= entry.header_offset <= archive_size - entry.compress_size:
        return "it ends after the end of the archive"
    if entry.file_size > max(RATIO_FREE_BYTES, MAX_RATIO * entry.compress_size):
        return f"it unpacks to more than {MAX_RATIO} times its size"
    return ""


def _checked(
    archive: StoredFile, found: Iterable[tuple[StoredFile, str]], fault: str
) -> tuple[list[StoredFile], list[Reject]]:
    """Return the members that are read, and rejects for the others and for damage.

    Args:
      archive: the archive.
      found: each member, and why it is not read.
      fault: what is wrong with the archive; "" if nothing.
    """
    members: list[StoredFile] = []
    rejects: list[Reject] = []
    for member, why in found:
        path = PurePosixPath(member.member)
        if not path.name:
            why = "no name"
        elif path.is_absolute() or ".." in path.parts:
            why = "a name that leads out of the archive"
        elif any(part.startswith(".") for part in path.parts):
            continue
        elif member.member.endswith(_SUFFIXES):
            why = "an archive inside an archive is not read"
        elif len(member.member) > MAX_MEMBER_NAME:
            why = f"a name of more than {MAX_MEMBER_NAME} characters"
        if why:
            rejects.append(_reject(str(member)[: MAX_MEMBER_NAME + len(archive.location)], why))
        else:
            members.append(member)
    if fault:
        why = f"damaged, truncated or too large ({fault}); {len(members)} files found"
        rejects.insert(0, _reject(archive.location, why))
    return members, rejects


class BoundedReads:
    """File of which no more than some bytes can be read, however many its content asks for.

    Attributes:
      left: number of bytes that can still be read.
    """

    def __init__(self, file: IO[bytes], left: int) -> None:
        """Wrap a file that is open for reading; the caller closes it."""
        self._file, self._most = file, left
        self.left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        """Read like a file; raise ValueError if there is more than `left`."""
        data = self._file.read(self.left + 1 if size < 0 else min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"headers of more than {self._most:,} bytes")
        return data


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


def _open_zip(listed: StoredFile) -> zipfile.ZipFile:
    """Open a ZIP file, or the one that a member is in."""

    def opened(stack: ExitStack) -> zipfile.ZipFile:
        file: Any = BoundedReads(stack.enter_context(storage.open_listed(listed)), _MAX_LIST_BYTES)
        archive = stack.enter_context(zipfile.ZipFile(file))
        file.left = sys.maxsize
        return archive

    # The time is part of the key, so that a replaced archive is opened again.
    return _OPEN.get((listed.location, listed.mtime_ns), opened)


def _open_tar(member: StoredFile) -> Any:
    def opened(stack: ExitStack) -> Any:
        file = stack.enter_context(storage.open_listed(member))
        archive = stack.enter_context(unpacked(file))
        archive.import_index(fileobj=io.BytesIO(storage.read_bytes(member.index)))
        return archive

    return _OPEN.get((member.location, member.index), opened)
