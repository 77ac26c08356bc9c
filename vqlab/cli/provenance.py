"""Which code made a checkpoint."""

import platform
import subprocess
from pathlib import Path

from vqlab import __version__

FOLDER = Path(__file__).parents[1]


def code_version() -> dict[str, str]:
    """Return the versions of vqlab, Python, torch and Lightning, and vqlab's git revision where there is one.

    Example:
        >>> sorted(code_version().keys() - {"revision"})
        ['lightning', 'python', 'torch', 'vqlab']
    """
    import lightning
    import torch

    found = {"vqlab": __version__, "revision": git_revision(), "python": platform.python_version()}
    found |= {"torch": str(torch.__version__), "lightning": str(lightning.__version__)}  # torch's is no plain str
    return {name: text for name, text in found.items() if text}


def git_revision(folder: Path = FOLDER) -> str:
    """Return the commit that vqlab's files are of, with ``-dirty`` where they differ from it; empty without git."""
    git = ["git", "-C", str(folder)]
    try:
        # A vqlab that is installed inside somebody's repository is not of that repository's commit.
        subprocess.run([*git, "ls-files", "--error-unmatch", "."], check=True, capture_output=True, timeout=10)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(described, check=True, capture_output=True, timeout=10, text=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
