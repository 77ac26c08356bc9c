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

    Folders ``path/train``, ``path/val`` and ``path/test`` are the splits, also under other usual names (``training``,
    ``valid``, ``validation``, ``dev``, ``testing``, ``eval``, capital letters or not); without ``path/val`` the
    validation documents are drawn from those of ``path/train`` by ``seed``, and without these folders all splits are
    drawn. The label is the name of the first-level folder (of a split), if there are at least two.

    Args:
        path: The folder.
        encoding: Encoding of the files, such as ``cp1252``, ``gbk`` or ``utf-16``.
        **common: Arguments of :class:`~vqlab.data.text.raw.RawTextDataModule`.

    Raises:
        UserError: If the folder is missing or empty, some of its folders are splits and others are not, or a file is
            not in ``encoding`` or no text.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name, text in (("pets/1", "cat and dog"), ("pets/2", "dog and cat"), ("food/1", "cat food")):
        ...     (folder / name).parent.mkdir(exist_ok=True)
        ...     _ = (folder / name).write_text(text)
        >>> data = TextFolder(str(folder), min_df=1, max_df=1.0, val_fraction=0.3, test_fraction=0, batch_size=2)
        >>> data.class_names, data.train_size
        (['food', 'pets'], 2)
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
