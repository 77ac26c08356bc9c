"""Downloads that appear whole or not at all."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from vqlab.errors import UserError

TIMEOUT = 10.0  # seconds without an answer
WITHOUT_NETWORK = "without a network use Photos, Digits, ImageArrays or ImageFolder"


def download_whole(
    name: str, root: str, folder: str, archives: str, download: Callable[[str], object], hint: str = WITHOUT_NETWORK
) -> None:
    """Let ``download(temporary_root)`` write ``temporary_root/folder``, then move the files to ``root/folder``.

    ``archives`` is a pattern of files under ``root`` that need not be downloaded again. If anything fails, nothing is
    left, and a UserError gives ``name``, the reason and the ``hint``.
    """
    before = socket.getdefaulttimeout()
    target = Path(root) / folder
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as partial:
            for archive in filter(Path.is_file, Path(root).glob(archives)):
                copy = Path(partial) / archive.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(archive, copy)
            socket.setdefaulttimeout(TIMEOUT)
            download(partial)
            target.mkdir(parents=True, exist_ok=True)
            for file in (Path(partial) / folder).iterdir():
                os.replace(file, target / file.name)
    except (OSError, RuntimeError, EOFError) as error:  # URLError and timeouts are OSErrors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} could not be downloaded ({reason}): put it into {target} by hand; {hint}") from error
    finally:
        socket.setdefaulttimeout(before)
