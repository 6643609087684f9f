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
    check_unchanged,
    check_writable,
    download,
    exists,
    limit,
    list_files,
    list_folder,
    mark_folder,
    open_binary,
    open_listed,
    open_random,
    open_regular,
    read_bytes,
    read_listed,
    remove,
    set_aside,
    too_large,
    upload,
    write_bytes,
    write_text,
)
from laser_dist.storage.locations import StoredFile, is_url, join, split
from laser_dist.storage.retries import retrying
