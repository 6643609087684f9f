"""Earlier names of `laser_dist.storage`; to be removed with their last users."""

from collections.abc import Callable
from pathlib import Path

from laser_dist import storage
from laser_dist.storage.run_files import RunFiles


class RunStore(RunFiles):
    """The files of a run."""

    def __init__(
        self, place: str, told: Callable[[str], None] | None = None, purpose: str = ""
    ) -> None:
        super().__init__(place, purpose)

    @property
    def place(self) -> str:
        """Path or URL of the run."""
        return self.location

    def content(self, path: Path) -> bytes | None:
        """Return the content of a file of the run; None if there is no such file."""
        try:
            return storage.read_bytes(self._url(path))
        except FileNotFoundError:
            return None

    def names(self, folder: Path, *, patiently: bool = True) -> list[str]:
        """Return the names in a folder of the run."""
        return super().names(folder)
