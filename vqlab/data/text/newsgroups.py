"""20 Newsgroups (Lang, 1995), in the version "bydate": posts to twenty groups of Usenet."""

import contextlib
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vqlab.data.files import download_whole, reading
from vqlab.data.text.raw import Document, RawTextDataModule

CACHE = "20news-bydate_py3.pkz"  # scikit-learn's file of the texts
ARCHIVE = "20news_home/20news-bydate.tar.gz"  # its download
WITHOUT_NETWORK = "without a network use --data Docstrings or --data TextFile"


class Newsgroups(RawTextDataModule):
    """20 Newsgroups: 11,314 training and 7,532 test posts of 1993 in 20 groups, the test posts written later.

    Scikit-learn downloads them. Validation posts are drawn from the training posts.

    Args:
        path: Folder of scikit-learn's data. Default: ``~/scikit_learn_data``.
        download: Download what is missing (14 MB).
        remove: Parts to remove from the posts: ``headers``, ``footers`` (signatures), ``quotes`` of other posts.
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
        from sklearn.datasets import fetch_20newsgroups, get_data_home  # takes a second to import

        home = get_data_home(self.path)
        if self.download and not (Path(home) / CACHE).is_file():
            fetch = partial(fetch_20newsgroups, n_retries=1, delay=0.1)
            download_whole("Newsgroups", home, "", ARCHIVE, lambda to: fetch(data_home=to), WITHOUT_NETWORK)

    def read(self) -> Iterator[Document]:
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
