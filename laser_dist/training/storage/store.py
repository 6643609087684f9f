"""Earlier names of `laser_dist.storage`; to be removed with their last users."""

from pathlib import Path

from laser_dist import storage
from laser_dist.storage import is_url

__all__ = ["Folder", "is_url"]


class Folder:
    """A dataset's folder."""

    def __init__(self, location: str | Path) -> None:
        self.location = location

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return storage.read_bytes(storage.join(self.location, name))
