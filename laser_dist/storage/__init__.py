"""Files at any location: a local path, or a `gs://` or `s3://` URL.

Other packages read and write files through this one: it retries what a network refuses for a while,
and a file that it writes is complete or absent. pyarrow is imported for URLs only.
"""

from laser_dist.storage.files import (
    MARK,
    LocalFile,
    RandomAccessFile,
    Stream,
    atomic_path,
    check_not_removed,
    check_writable,
    download,
    exists,
    list_folder,
    mark_folder,
    open_binary,
    open_random,
    read_bytes,
    remove,
    set_aside,
    upload,
    write_bytes,
    write_text,
)
from laser_dist.storage.limits import (
    limit,
    open_regular,
    too_large,
)
from laser_dist.storage.listing import (
    check_unchanged,
    is_pattern,
    list_files,
    match_files,
    open_listed,
    read_listed,
)
from laser_dist.storage.locations import StoredFile, is_url, join, split
from laser_dist.storage.retries import retrying
