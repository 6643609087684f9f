"""Access to buckets through pyarrow: addresses, retries and errors."""

import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

from laser_dist.errors import UserError
from laser_dist.storage.retries import is_transient, reason, retrying

T = TypeVar("T")

SCHEMES = ("gs", "s3")
# Google's client retries by itself, by default for 15 minutes.
_GOOGLE_RETRIES_S = 10
_CHECK_BUCKET = "Check the bucket's name and your credentials."
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|Bucket '[^']*' not found")


def in_bucket(location: str | Path, work: Callable[[Any, str], T], *, writes: bool = False) -> T:
    """Return what `work` returns, given pyarrow's file system and the path in it; with retries."""
    bucket_url, path = _parts(str(location))
    try:
        return retrying(lambda: work(_filesystem(bucket_url, os.getpid()), path), str(location))
    except FileNotFoundError as error:
        if writes:  # only the bucket itself can be missing
            raise _no_bucket(location) from error
        raise FileNotFoundError(error.errno, "No such file", str(location)) from error
    except (OSError, ValueError) as error:  # pyarrow's own errors are one of these
        if isinstance(error, OSError) and error.filename is not None:
            raise  # of the local disk
        if _NO_BUCKET.search(str(error)):
            raise _no_bucket(location) from error
        is_passing = isinstance(error, OSError) and is_transient(error)
        hint = "Check the network, then run the command again." if is_passing else _CHECK_BUCKET
        raise UserError(f"Cannot access {location}: {reason(error)}.", hint=hint) from error


def infos(location: str, *, recursive: bool) -> list[tuple[Any, str]]:
    """Return pyarrow's description of each file and folder below a folder, and its name there."""

    def find(files: Any, path: str) -> list[tuple[Any, str]]:
        from pyarrow.fs import FileSelector, FileType

        found = files.get_file_info(FileSelector(path, allow_not_found=True, recursive=recursive))
        bucket = path.partition("/")[0]
        # Where nothing is found there may be no bucket.
        if not found and files.get_file_info(bucket).type == FileType.NotFound:
            raise _no_bucket(location)
        return [(info, info.path[len(path) + 1 :].strip("/")) for info in found]

    return [each for each in in_bucket(location, find) if each[1]]


def _no_bucket(location: str | Path) -> UserError:
    return UserError(f"The bucket of {location} does not exist.", hint=_CHECK_BUCKET)


def _parts(url: str) -> tuple[str, str]:
    """Return the URL of the bucket, options included, and the path in it as pyarrow takes it."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise UserError(
            f"{url} is a URL of an unsupported kind.", hint="Use gs://, s3:// or a local path."
        )
    path, _, options = rest.partition("?")
    values = dict(parse_qsl(options))
    if scheme == "gs":
        values.setdefault("retry_limit_seconds", str(_GOOGLE_RETRIES_S))
    authority, _, key = path.partition("/")
    bucket = authority.rpartition("@")[2]
    url = f"{scheme}://{authority}" + (f"?{urlencode(values)}" if values else "")
    return url, f"{bucket}/{key}".rstrip("/")


@lru_cache(maxsize=64)
def _filesystem(bucket_url: str, _process_id: int) -> Any:
    """Return pyarrow's file system of a bucket: one for each process, as forks cannot share it."""
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(bucket_url)[0]
