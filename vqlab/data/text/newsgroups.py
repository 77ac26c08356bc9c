"""20 Newsgroups (Lang, 1995), in the version "bydate": posts to twenty groups of Usenet."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from vqlab.data.files import download_whole, reading
from vqlab.data.text.raw import Document, RawTextDataModule

CACHE = "20news-bydate_py3.pkz"  # where scikit-learn keeps the texts
ARCHIVE = "20news_home/20news-bydate.tar.gz"  # what it makes them of
WITHOUT_NETWORK = "without a network take --data Docstrings or --data TextFile"


class Newsgroups(RawTextDataModule):
    """20 Newsgroups: 11,314 training and 7,532 test posts of 1993 in 20 groups, the test posts written later.

    Scikit-learn downloads them. Validation posts are drawn from the training posts.

    Args:
        path: Folder of scikit-learn's data. Default: ``~/scikit_learn_data``.
        download: Download what is missing (14 MB).
        remove: What to leave out of the posts: ``headers``, ``footers`` (signatures), ``quotes`` of other posts.
        **common: Arguments of :class:`~vqlab.data.text.raw.RawTextDataModule`.

    Example:
        >>> Newsgroups(remove=("headers",)).modality  # reads and downloads nothing yet
        'text'
    """

    def __init__(
        self,
        path: str | None = None,
        download: bool = True,
        remove: tuple[Literal["headers", "footers", "quotes"], ...] = ("headers", "footers", "quotes"),
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.path, self.download, self.remove = path, download, tuple(remove)

    def prepare_data(self) -> None:
        """Download what is missing."""
        from sklearn.datasets import get_data_home  # takes a second to import

        home = get_data_home(self.path)
        if self.download and not (Path(home) / CACHE).is_file():
            download_whole("Newsgroups", home, "", ARCHIVE, fetch_into, WITHOUT_NETWORK)

    def read(self) -> Iterator[Document]:
        """Yield the training posts, then the test posts."""
        from sklearn.datasets import fetch_20newsgroups, get_data_home

        self.prepare_data()
        cache = Path(get_data_home(self.path)) / CACHE
        damaged = f"is missing or damaged ({{reason}}): remove this file, and set download=true; {WITHOUT_NETWORK}"
        for split in ("train", "test"):
            # scikit-learn prints when the cache is damaged
            with reading(cache, damaged), contextlib.redirect_stdout(io.StringIO()):
                posts: Any = fetch_20newsgroups(
                    data_home=self.path, subset=split, shuffle=False, remove=self.remove, download_if_missing=False
                )
            for text, label in zip(posts.data, posts.target, strict=True):
                yield Document(text, posts.target_names[label], split)


def fetch_into(home: str) -> None:
    """Let scikit-learn download and unpack the posts."""
    from sklearn.datasets import fetch_20newsgroups

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns when it tries again
        fetch_20newsgroups(data_home=home, n_retries=1, delay=0.1)
