"""Files of an evaluation: written whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from laser_dist.errors import UserError


def write_atomically(path: Path, text: str) -> None:
    """Write a file complete or not at all.

    Raises:
      UserError: the disk is full or read-only, or a folder is in the way.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        # Temporary files are private to their owner; what is published follows the umask.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"writing {path}",
            "a folder that can be written to, with room left",
            error.strerror or str(error),
            "Name another output folder, or free some space.",
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
