"""Files of a run folder, which may come from someone else: read without following links, and up to a size limit."""

import errno
import io
import os
import stat
from pathlib import Path
from typing import IO

from PIL import Image

LARGEST_LOG, LARGEST_TEXT, LARGEST_PICTURE = 2**28, 2**20, 2**25  # bytes
MOST_PIXELS = 2**26


def open_file(folder: Path, name: str) -> IO[bytes]:
    """Open the file ``name`` in a run folder for reading.

    Raises:
        FileNotFoundError: If there is none.
        OSError: If it cannot be read, is no regular file, or lies behind a link.
    """
    path = folder / name
    if os.path.realpath(path) != os.path.join(os.path.realpath(folder), name):
        raise OSError(errno.ELOOP, "it is a link, or lies behind one")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # does not wait for the writer of a pipe
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return open(descriptor, "rb")


def read_file(folder: Path, name: str, limit: int) -> bytes:
    """Return the content of the file ``name`` in a run folder.

    Raises:
        OSError: As :func:`open_file`; also if it is larger than ``limit`` bytes.
    """
    with open_file(folder, name) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {limit >> 20} MB")
        return file.read(limit)


def read_text(folder: Path, name: str, limit: int = LARGEST_TEXT) -> str:
    """Return the text of a file in a run folder, damaged bytes replaced; see :func:`read_file`."""
    return read_file(folder, name, limit).decode("utf-8-sig", errors="replace")


def read_picture(folder: Path, path: Path) -> bytes:
    """Return the content of a picture below a run folder.

    Raises:
        OSError: As :func:`read_file`; also if it is no PNG, damaged, or too large for a page.
    """
    content = read_file(folder, os.path.relpath(path, folder), LARGEST_PICTURE)
    if int.from_bytes(content[16:20]) * int.from_bytes(content[20:24]) > MOST_PIXELS:  # width and height of a PNG
        raise OSError(errno.EFBIG, f"it is no PNG of at most {MOST_PIXELS:,} pixels")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.verify()
    except Exception as error:  # damaged files make PIL raise many things
        raise OSError(errno.EINVAL, "it is no PNG, or damaged") from error
    return content
