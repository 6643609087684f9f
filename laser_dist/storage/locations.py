"""Locations of files, as text: local paths and URLs."""

from dataclasses import dataclass
from pathlib import Path


def is_url(location: str | Path) -> bool:
    """Return whether a location is a URL, not a local path."""
    return "://" in str(location)


def join(folder: str | Path, *parts: str) -> str:
    """Return the location of something in a folder; a URL keeps its options (`?…`) at the end."""
    location, mark, options = str(folder).partition("?" if is_url(folder) else "\0")
    return ("/".join((location.rstrip("/"), *parts)) if parts else location) + mark + options


def split(location: str | Path) -> tuple[str, str]:
    """Return the folder that something is in, and its name there; the inverse of `join`."""
    path, mark, options = str(location).partition("?" if is_url(location) else "\0")
    folder, _, name = path.rstrip("/").rpartition("/")
    return folder + mark + options, name


@dataclass(frozen=True, order=True)
class StoredFile:
    """A file that exists, on its own or as a member of an archive.

    Attributes:
      location: path or URL of the file, or of the archive that it is in.
      member: name in the archive; empty for a file on its own.
      size: in bytes, of the file itself.
      mtime_ns: when `location` was modified, in nanoseconds since 1970; None if unknown.
      archive_size: size of the archive in bytes; 0 for a file on its own.
      offset: where the file starts in the unpacked archive, in bytes; in a ZIP file, its position
        in the list of members.
      index: location of the archive's index, if `offset` can only be reached with one.
      crc: CRC-32 of the content; None if unknown.
    """

    location: str
    member: str = ""
    size: int = 0
    mtime_ns: int | None = None
    archive_size: int = 0
    offset: int = 0
    index: str = ""
    crc: int | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return split(self.member or self.location)[1]

    def __str__(self) -> str:
        return f"{self.location}:{self.member}" if self.member else self.location
