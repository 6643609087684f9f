"""The files of a run, in a folder or a bucket.

A run's files are read and written below `RunFiles.local`, as TensorFlow and Keras need paths. If
the run is in a folder, that is the folder itself, which all machines share. If it is in a bucket,
it is a copy in the user's cache: `push` uploads what was written there, `fetch` downloads what
others have written.
"""

import contextlib
import errno
import hashlib
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from laser_dist.storage import files
from laser_dist.storage.cache import cache_folder, is_copy, own_folder, record_copy
from laser_dist.storage.locations import is_url, join

_ABANDONED_S = 3600


def remove_unfinished(folder: Path, *, older_than_s: float = 0.0) -> None:
    """Remove what a killed process was writing below a folder with `atomic_path`."""
    for path in folder.rglob(".*.unfinished*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime >= older_than_s and not path.is_dir():
                path.unlink()


@dataclass(frozen=True)
class RunFiles:
    """The files of a run, by their path below `local`.

    Attributes:
      location: path or URL of the run.
      purpose: of the local copy, if it is another than to train: such a copy is separate.
    """

    location: str
    purpose: str = ""

    @cached_property
    def local(self) -> Path:
        """The run's folder, or its copy on this machine."""
        if not self.is_remote:
            return Path(self.location)
        name = hashlib.sha256(f"{self.location.rstrip('/')}{self.purpose}".encode()).hexdigest()
        folder = cache_folder(name[:16])
        # A download that is under way changes every moment.
        remove_unfinished(folder, older_than_s=_ABANDONED_S)
        return folder

    @property
    def is_remote(self) -> bool:
        """Whether `local` is a copy."""
        return is_url(self.location)

    def push(self, *paths: Path) -> None:
        """Upload files, and all files in folders; JSON files, which vouch for others, come last."""
        for path in paths if self.is_remote else ():
            found = path.rglob("*") if path.is_dir() else [path]
            for file in sorted(found, key=lambda each: (each.suffix == ".json", each)):
                if file.is_file():
                    files.upload(file, self._url(file))

    def fetch(self, path: Path, *, reuse: bool = False) -> bool:
        """Download a file to its path below `local`.

        Args:
          path: of the file.
          reuse: whether an earlier download is taken if neither it nor the original has changed.

        Returns:
          Whether there is such a file.
        """
        if not self.is_remote:
            return path.exists()
        self._check(path.parent)
        url = self._url(path)
        if reuse and (version := files.version(url)) and is_copy(path, version):
            return True
        version = files.download(url, path)
        if reuse and version:
            record_copy(path, version)
        return bool(version)

    def await_file(self, path: Path, seconds: int = 60) -> Path:
        """Download a file that another machine has just written: a shared folder may lag behind.

        Raises:
          FileNotFoundError: it has not appeared after `seconds`.
        """
        for _ in range(seconds):
            if self.fetch(path):
                return path
            time.sleep(1)
        raise FileNotFoundError(errno.ENOENT, f"not in {self.location}", str(path))

    def fetch_all(self, folder: Path, *, suffix: str = "", exactly: bool = False) -> None:
        """Download all files that are directly in a folder.

        Args:
          folder: below `local`.
          suffix: end of the names of the wanted files.
          exactly: whether other files there are removed; only while no worker runs.
        """
        if not self.is_remote:
            return
        self._check(folder)
        found = self.names(folder)
        names = [each for each in found if each.endswith(suffix) and not each.startswith(".")]
        for name in names:
            self.fetch(folder / name)
        for path in folder.glob(f"*{suffix}") if exactly else ():
            # Another process may be writing a hidden file.
            if path.is_file() and path.name not in names and not path.name.startswith("."):
                path.unlink(missing_ok=True)

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder of the run, sorted; none if there is no such folder."""
        return list(files.list_folder(self._url(folder)))

    def remove(self, path: Path) -> None:
        """Remove a file or folder of the run and its copy; a missing one is no error."""
        if self.is_remote:
            self._check(path.parent)
        files.remove(path)
        if self.is_remote:
            files.remove(self._url(path))

    def _check(self, folder: Path) -> None:
        """Check that no part of the way to a folder of the copy is a link."""
        own_folder(self.local, *folder.relative_to(self.local).parts)

    def _url(self, path: Path) -> str:
        parts = path.relative_to(self.local).parts
        return join(self.location, *parts)
