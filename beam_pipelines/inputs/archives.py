"""Files inside archives, read where they are: nothing is unpacked to a disk.

A ZIP says itself where its members lie. A `.tar.gz` is a stream: it is read through once, for its
members' names and for a point every 16 MB from which unpacking can start again. With that index any
member is a file like another, so that many workers may read one archive at a time. Names of members
are only ever looked at, never written to, so none can lead out of a folder.
"""

import atexit
import hashlib
import io
import json
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import IO, Any

from beam_pipelines import storage
from beam_pipelines.inputs.gzip_check import GzipCheck
from beam_pipelines.rejects import ARCHIVE, Reject
from beam_pipelines.storage import StoredFile
from laser_dist.errors import UserError

TAR_SUFFIXES = (".tar.gz", ".tgz")
_SUFFIXES = (*TAR_SUFFIXES, ".zip")
_REPLACEMENT = "_fix"
# In lower case: those of ours in upper case are among them.
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
# Beside OSError: what the standard library's readers raise of damaged or changed archives.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ValueError,
    EOFError,
    KeyError,  # no such member any more
    RuntimeError,  # encrypted; NotImplementedError is one
)


def is_archive(file: StoredFile) -> bool:
    """Whether a file is an archive that can be looked into."""
    return file.name.endswith(_SUFFIXES)


def archives_among(files: Sequence[StoredFile]) -> tuple[list[StoredFile], list[Reject]]:
    """The archives that are to be read, and those that are not: replaced, or of another kind."""
    others = [file for file in files if file.name.lower().endswith(_OTHER_SUFFIXES)]
    kept, rejects = _without_replaced([file for file in files if is_archive(file)])
    why = f"no {', '.join(_SUFFIXES)}: not looked into; unpack it"
    rejects += [
        Reject(what=ARCHIVE, where=file.place, stage="find", why=why)
        for file in others
        if not is_archive(file)
    ]
    return kept, rejects


def unreadable(archives: Sequence[StoredFile]) -> list[Reject]:
    """A reject for each archive that cannot be opened: else it would be written down as cut."""
    rejects: list[Reject] = []
    for archive in archives:
        try:
            with storage.open_binary(archive.place):
                pass
        except OSError as error:
            why = f"cannot be opened ({error.strerror or error})"
            rejects.append(Reject(what=ARCHIVE, where=archive.place, stage="find", why=why))
    return rejects


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
            return _open_zip(file.place, file.modified_s).read(file.member)
        unpacked = _open_tar(file.place, file.index)
        unpacked.seek(file.offset)
        content = unpacked.read(file.size)
    except (*_DAMAGE, OSError) as error:
        raise OSError(f"{file} cannot be unpacked ({error})") from error
    if len(content) != file.size:
        raise OSError(f"{file} is cut: {len(content)} of {file.size} bytes")
    return content


def index_tar(archive: StoredFile, index_folder: str) -> None:
    """Reads a `.tar.gz` through and writes down where its members are.

    What can be read of a damaged archive is kept; its list of members then says what was wrong.
    Where a checksum does not match, nothing is kept: any member may be another than it was.

    Raises:
      UserError: it cannot be read now; nothing is written down.
    """
    with storage.open_binary(archive.place) as file:
        checked = GzipCheck(file)
        with _unpacked(checked) as unpacked:
            members, fault = _scan_tar(unpacked)
            points = _points_of(unpacked) if members else b""
        try:
            checked.finish()
        except OSError:
            assert checked.unread is not None
    if checked.unread is not None:
        raise _unreadable(archive, checked.unread) from checked.unread
    if checked.is_checksum:
        members = []
    if members and not points:
        members, fault = [], fault or "no index can be made of it"
    storage.write_bytes(_points_place(archive, index_folder), points)
    listing = json.dumps({"members": members, "fault": checked.fault or fault})
    storage.write_bytes(_listing_place(archive, index_folder), listing.encode())


def _unreadable(archive: StoredFile, error: OSError) -> UserError:
    # Without "[Errno ...]": that would be taken for the place that is written to.
    got = error.strerror or type(error).__name__
    return UserError(
        f"Archive {archive.place}", "a file that can be read", got, "Check it, then start again."
    )


def _scan_tar(unpacked: Any) -> tuple[list[dict[str, Any]], str]:
    """Name, offset and size of each file up to the end or the first fault, and the fault."""
    members: list[dict[str, Any]] = []
    try:
        with tarfile.open(fileobj=unpacked, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    place = {"offset": member.offset_data, "size": member.size}
                    members.append({"name": member.name, **place})
            end = tar.offset
        # To `tarfile`, a header that makes no sense is an archive's end.
        unpacked.seek(end)
        if unpacked.read(tarfile.BLOCKSIZE).strip(b"\0"):
            return members, f"no header of a file at byte {end}"
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        return members, str(error)
    return members, ""


def _unpacked(file: GzipCheck | IO[bytes]) -> Any:
    import indexed_gzip

    return indexed_gzip.IndexedGzipFile(
        fileobj=file,
        spacing=_POINT_EVERY_BYTES,
        # What it reads ahead is lost where the stream is damaged, and held for each archive.
        buffer_size=_READ_AHEAD_BYTES,
        skip_crc_check=True,  # it would check some streams and others not
    )


def _points_of(unpacked: Any) -> bytes:
    points = io.BytesIO()
    try:
        unpacked.export_index(fileobj=points)
    except OSError:
        return b""
    return points.getvalue()


def _without_replaced(archives: list[StoredFile]) -> tuple[list[StoredFile], list[Reject]]:
    """Leaves out archives that were issued anew: `part_3_fix` stands in place of `part_3`."""
    parts = {_part(archive, _stem(archive)) for archive in archives}
    kept, rejects = [], []
    for archive in archives:
        again = _stem(archive) + _REPLACEMENT
        if _part(archive, again) in parts:
            why = f"replaced by {again}"
            rejects.append(Reject(what=ARCHIVE, where=archive.place, stage="find", why=why))
        else:
            kept.append(archive)
    return kept, rejects


def _part(archive: StoredFile, stem: str) -> tuple[str, str]:
    """Folder and name; the name alone where it says of which resolution the part is."""
    folder = archive.place.rpartition("/")[0]
    return ("", stem) if _RESOLUTION.search(stem) else (folder, stem)


def _stem(archive: StoredFile) -> str:
    return re.sub(r"\.(tar\.gz|tgz|zip)$", "", archive.name)


def _members_of_tar(
    archive: StoredFile, index_folder: str
) -> tuple[list[StoredFile], list[Reject]]:
    listing = json.loads(storage.read_bytes(_listing_place(archive, index_folder)))
    points = _points_place(archive, index_folder)
    rows = [(row["name"], row["offset"], row["size"]) for row in listing["members"]]
    return _checked(archive, rows, points, listing["fault"])


def _members_of_zip(archive: StoredFile) -> tuple[list[StoredFile], list[Reject]]:
    try:
        entries = _open_zip(archive.place, archive.modified_s).infolist()
    except (*_DAMAGE, OSError) as error:
        return _checked(archive, [], "", str(error))
    rows = [(entry.filename, 0, entry.file_size) for entry in entries if not entry.is_dir()]
    return _checked(archive, rows, "", "")


def _checked(
    archive: StoredFile, rows: list[tuple[str, int, int]], points: str, fault: str
) -> tuple[list[StoredFile], list[Reject]]:
    members: list[StoredFile] = []
    rejects: list[Reject] = []
    if fault:
        why = f"damaged or cut ({fault}); {len(rows)} files are found in it"
        rejects.append(Reject(what=ARCHIVE, where=archive.place, stage="find", why=why))
    for name, offset, size in rows:
        path = PurePosixPath(name)
        where = f"{archive.place}:{name}"
        if path.is_absolute() or ".." in path.parts:
            why = "a name that leads out of its archive"
            rejects.append(Reject(what=ARCHIVE, where=where, stage="find", why=why))
        elif name.endswith(_SUFFIXES):
            why = "an archive in an archive, which is not looked into"
            rejects.append(Reject(what=ARCHIVE, where=where, stage="find", why=why))
        elif not any(part.startswith(".") for part in path.parts):
            member = StoredFile(archive.place, name, size, archive.modified_s, offset, points)
            members.append(member)
    return members, rejects


def _key(archive: StoredFile) -> str:
    """Of another archive, or of one that was replaced, it is another."""
    parts = repr((archive.place, archive.size, archive.modified_s, _FORMAT))
    return f"{archive.name}-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"


def _points_place(archive: StoredFile, index_folder: str) -> str:
    return storage.join(index_folder, f"{_key(archive)}.gzidx")


def _listing_place(archive: StoredFile, index_folder: str) -> str:
    return storage.join(index_folder, f"{_key(archive)}.json")


class _OpenArchives:
    """Archives that were read last, kept open; the one left longest is closed for another."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: OrderedDict[tuple, tuple[Any, ExitStack]] = OrderedDict()
        atexit.register(self.close)

    def get(self, key: tuple, opened: Callable[[ExitStack], Any]) -> Any:
        """What `opened` returned for the key; it gives what is to be closed to the stack."""
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


# A process reads the clips of one source after another: mostly of one archive.
_OPEN = _OpenArchives(most=2)


def _open_zip(place: str, modified_s: float) -> zipfile.ZipFile:
    def opened(stack: ExitStack) -> zipfile.ZipFile:
        file = stack.enter_context(storage.open_binary(place))
        return stack.enter_context(zipfile.ZipFile(file))

    # By its time: an archive that was replaced is opened anew.
    return _OPEN.get((place, modified_s), opened)


def _open_tar(place: str, index: str) -> Any:
    def opened(stack: ExitStack) -> Any:
        file = stack.enter_context(storage.open_binary(place))
        unpacked = stack.enter_context(_unpacked(file))
        unpacked.import_index(fileobj=io.BytesIO(storage.read_bytes(index)))
        return unpacked

    return _OPEN.get((place, index), opened)
