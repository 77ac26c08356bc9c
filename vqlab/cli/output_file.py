"""A file that a command writes."""

from dataclasses import dataclass
from pathlib import Path

from vqlab.atomic_io import write_atomic


@dataclass(frozen=True)
class OutputFile:
    """Content of a file, and what is printed about it."""

    path: Path
    data: bytes
    facts: str

    def write(self) -> None:
        """Write the file, whole or not at all, and print the facts."""
        with write_atomic(self.path, "-o") as file:
            file.write(self.data)
        print(f"{self.path}: {self.facts}", flush=True)
