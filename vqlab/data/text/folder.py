"""Documents from a folder of text files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from vqlab.data.files import counted, reading
from vqlab.data.split_folders import split_folders
from vqlab.data.text.raw import Document, RawTextDataModule


class TextFolder(RawTextDataModule):
    """A folder with text files at any depth, one document each, whatever their extensions, as they are or compressed.

    Folders ``path/train``, ``path/val`` and ``path/test``, also under other usual names, are the splits; without
    ``path/val`` validation is drawn from training by ``seed``, and without these folders all splits are drawn. The
    label is the name of the first-level folder (of a split), if there are at least two.

    Args:
        path: The folder.
        encoding: Encoding of the files, such as ``cp1252``, ``gbk`` or ``utf-16``.
        **common: Arguments of :class:`~vqlab.data.text.raw.RawTextDataModule`.

    Raises:
        UserError: If the folder is missing or empty, only some of its folders are splits, or a file is not readable.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in range(10):
        ...     _ = (folder / f"{number}.txt").write_text("cat and dog")
        >>> TextFolder(str(folder), min_df=1, max_df=1.0, batch_size=2).train_size
        8
    """

    def __init__(self, path: str, encoding: str = "utf-8", **common: Any) -> None:
        super().__init__(**common)
        self.path, self.encoding = path, encoding
        self._roots, self._files = split_folders(Path(path), ("",), "text files")

    def read(self) -> Iterator[Document]:
        """Yield the documents in the order of their paths."""
        files = [(split, file) for split, group in self._files.items() for file in group]
        for split, file in counted(files, len(files), "read", "files"):
            with (
                reading(file, "cannot be read ({reason}): leave it out, or set encoding=cp1252, gbk or what it is"),
                fsspec.open(str(file), "rt", encoding=self.encoding, compression="infer") as opened,
            ):
                text = opened.read()
            folder = file.relative_to(self._roots[split]).parts[0]
            yield Document(text, folder if file.parent != self._roots[split] else None, split or None)
