"""Downloads that are complete or leave no files."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from vqlab.errors import UserError

TIMEOUT = 10.0  # seconds
WITHOUT_NETWORK = "without a network use Photos, Digits, ImageArrays or ImageFolder"


def download_whole(
    name: str, root: str, folder: str, archives: str, download: Callable[[str], object], hint: str = WITHOUT_NETWORK
) -> None:
    """Call ``download(temporary_root)``, which writes ``temporary_root/folder``, and move the files to ``root/folder``.

    ``archives`` is a pattern of files under ``root`` that are not downloaded again.
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
        raise UserError(f"{name} could not be downloaded ({reason}): copy it to {target}; {hint}") from error
    finally:
        socket.setdefaulttimeout(before)
