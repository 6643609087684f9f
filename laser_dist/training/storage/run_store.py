"""Where a run is kept: a folder, or a bucket of which each machine has what it needs at hand.

A run's files are always read and written below `RunStore.local`. In a folder that all machines
share that is the run itself, and the store has nothing to do. Of a bucket it is a copy: `push`
brings what was written there into the bucket, `fetch` brings back what others have written.
An object is complete or absent, so what must not be half-written is one file.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from laser_dist.errors import UserError
from laser_dist.training.storage.retrying import first_line, retrying
from laser_dist.training.storage.store import Folder, is_url, listed

_CHUNK = 8 << 20


@dataclass(frozen=True)
class RunStore:
    """A run's place.

    Attributes:
      place: a folder's path, or a URL that pyarrow's file systems know (gs://…, s3://…).
      told: given a line for people where the store fails for a while.
      purpose: of the copy of a bucket's run: one for another purpose than training it lies
        elsewhere on this machine.
    """

    place: str
    told: Callable[[str], None] = lambda _: None
    purpose: str = ""

    @cached_property
    def local(self) -> Path:
        """The folder that holds the run, or what is at hand of it on this machine."""
        if not is_url(self.place):
            return Path(self.place)
        name = hashlib.sha256(f"{self.place.rstrip('/')}{self.purpose}".encode()).hexdigest()[:16]
        # One for each user: another one's could not be written.
        user = str(os.getuid()) if hasattr(os, "getuid") else "all"
        return Path(tempfile.gettempdir()) / f"laser-jnd-{user}" / name

    @property
    def is_remote(self) -> bool:
        """Whether files have to be pushed and fetched."""
        return is_url(self.place)

    def push(self, *paths: Path) -> None:
        """Brings files, or all files of folders, from below `local` into the store."""
        if not self.is_remote:
            return
        for path in paths:
            files = (
                [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
            )
            # What says that others are whole comes last.
            for file in sorted(files, key=lambda each: (each.suffix == ".json", each)):
                self._retrying(lambda file=file: self._upload(file))

    def fetch(self, path: Path, *, reuse: bool = False) -> bool:
        """Brings a file from the store to its place below `local`.

        Args:
          path: of the file, below `local`.
          reuse: whether a file of the same size is taken to be the same one.

        Returns:
          Whether it is there.
        """
        if not self.is_remote:
            return path.exists()
        return self._retrying(lambda: self._download(path, reuse=reuse))

    def await_file(self, path: Path, seconds: int = 60) -> Path:
        """Brings a file that another machine has written: of a shared folder this one may lag.

        Raises:
          FileNotFoundError: it has not come after so many seconds.
        """
        for _ in range(seconds):
            if self.fetch(path):
                return path
            time.sleep(1)
        raise FileNotFoundError(errno.ENOENT, f"not in {self.place}", str(path))

    def content(self, path: Path) -> bytes | None:
        """What the store has of a file, the copy here left as it is; None if there is none."""
        if not self.is_remote:
            return path.read_bytes() if path.exists() else None
        filesystem, key = self._remote[0], self._key(path)
        if not filesystem.get_file_info(key).is_file:
            return None
        with filesystem.open_input_stream(key) as source:
            return source.read()

    def fetch_all(self, folder: Path, *, exactly: bool = False) -> None:
        """Brings a folder's files here, without folders below it.

        Args:
          folder: below `local`.
          exactly: whether others that are here go; only while no worker is at work.
        """
        if not self.is_remote:
            return
        names = self.names(folder)
        for name in names:
            if not name.startswith("."):
                self.fetch(folder / name)
        for path in folder.glob("*") if exactly else ():
            # What begins with a dot is on its way, for another process.
            if path.is_file() and path.name not in names and not path.name.startswith("."):
                path.unlink(missing_ok=True)

    def names(self, folder: Path, *, patiently: bool = True) -> list[str]:
        """Names of what the store has in a folder, in order; of a missing one none."""
        if not self.is_remote:
            return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
        return self._retrying(lambda: self._list(folder)) if patiently else self._list(folder)

    def remove(self, path: Path) -> None:
        """Removes a file or a folder, here and in the store; a missing one is no error."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if self.is_remote:
            self._retrying(lambda: self._delete(path))

    def check_writable(self, option: str = "--storage") -> None:
        """Writes and removes a small file.

        Args:
          option: by which the user names another place.

        Raises:
          UserError: the place cannot be written; said before any work is done.
        """
        path = self.local / f".can-be-written-{uuid.uuid4().hex}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
            if self.is_remote:
                self._upload(path)  # at once: a wrong name does not get better
                self._delete(path)
            path.unlink()
        except OSError as error:
            raise UserError(
                f"Run's place {self.place}",
                "a bucket or folder that can be written",
                error.strerror or first_line(error),
                f"Check its name and your rights, or name another with {option}.",
            ) from error

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        return Folder(self.place.rstrip("/")).filesystem

    def _key(self, path: Path) -> str:
        return str(PurePosixPath(self._remote[1], path.relative_to(self.local).as_posix()))

    def _retrying(self, work: Callable[[], Any]) -> Any:
        return retrying(work, told=self.told)

    def _upload(self, file: Path) -> None:
        filesystem, key = self._remote[0], self._key(file)
        if filesystem.type_name == "local":  # file://
            Path(key).parent.mkdir(parents=True, exist_ok=True)
        # Closing a stream makes an object, also of half a file.
        unfinished = f"{key}.{uuid.uuid4().hex}.unfinished"
        with file.open("rb") as source, filesystem.open_output_stream(unfinished) as target:
            while chunk := source.read(_CHUNK):
                target.write(chunk)
        filesystem.move(unfinished, key)

    def _download(self, path: Path, *, reuse: bool) -> bool:
        from pyarrow.fs import FileType

        filesystem, key = self._remote[0], self._key(path)
        info = filesystem.get_file_info(key)
        if info.type != FileType.File:
            return False
        if reuse and path.exists() and path.stat().st_size == info.size:
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: several workers of a machine may fetch the same file.
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.unfinished")
        try:
            with filesystem.open_input_stream(key) as source, unfinished.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        return True

    def _list(self, folder: Path) -> list[str]:
        return list(listed(self._remote[0], self._key(folder)))

    def _delete(self, path: Path) -> None:
        from pyarrow.fs import FileType

        filesystem, key = self._remote[0], self._key(path)
        kind = filesystem.get_file_info(key).type
        if kind == FileType.Directory:
            # GCS has no folders: once the last object in it is gone, so is the folder itself.
            with contextlib.suppress(FileNotFoundError):
                filesystem.delete_dir(key)
        elif kind == FileType.File:
            filesystem.delete_file(key)
