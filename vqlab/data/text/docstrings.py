"""Docstrings of the installed packages that vqlab is built on: real English text, no download."""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vqlab.data.files import list_files
from vqlab.data.text.raw import Document, RawTextDataModule
from vqlab.errors import UserError
from vqlab.validation import Count

# Of torch only two parts: all of it takes longer to parse than all others together.
PACKAGES: tuple[str, ...] = ("lightning", "matplotlib", "numpy", "scipy", "skimage", "sklearn")
PACKAGES += ("torch.distributed", "torch.nn", "torchvision")
SKIPPED = frozenset({"tests", "testing", "externals", "_vendor"})  # folders: tests, and copies of other packages
CODE = re.compile(r" *(\.\. (code|code-block|sourcecode|math|plot|testcode|testsetup)::.*|(?! *\.\. ).*::)")
# Inline mathematics, and what marks roles, directives and links, are not words either.
MARKUP = re.compile(r":math:`[^`]*`|:[\w:]+:(?=`)|\.\. [\w-]+::|https?://\S+")


class Docstrings(RawTextDataModule):
    """Docstrings of modules, classes and functions, one document each: the default where there is no network.

    They are read from the packages' source files, which are not imported. Examples and code are removed; docstrings
    with fewer than ``min_words`` words and repetitions are left out. Of the default packages about 10,700 docstrings
    remain; reading takes some seconds. The label is the package.

    Args:
        packages: Names of installed packages, or of parts such as ``torch.nn``, as they are imported.
        min_words: Leave out docstrings with fewer words, separated by spaces, than this.
        **common: Arguments of :class:`~vqlab.data.text.raw.RawTextDataModule`.

    Raises:
        UserError: If an argument is out of range, or a package is not installed.

    Example:
        >>> data = Docstrings(packages=("einops", "lpips"), min_df=2, batch_size=8)
        >>> data.class_names, data.vocab_size > 50
        (['einops', 'lpips'], True)
    """

    def __init__(self, packages: tuple[str, ...] = PACKAGES, min_words: Count = 30, **common: Any) -> None:
        super().__init__(**common)
        self.min_words = min_words
        self._folders = {package: find_package(package) for package in packages}

    def read(self) -> Iterator[Document]:
        """Yield the docstrings of each package in the order of files and lines."""
        seen: set[str] = set()
        for package, folder in self._folders.items():
            for text in read_package(folder):
                if len(text.split()) >= self.min_words and text not in seen:
                    seen.add(text)
                    yield Document(text, package)


def find_package(package: str) -> Path:
    """Return the folder of an installed package or of a part of it, without an import."""
    top, *parts = package.split(".")
    spec = find_spec(top) if top.isidentifier() else None
    folders = spec.submodule_search_locations if spec else None
    folder = Path(next(iter(folders)), *parts) if folders else None
    if folder is None or not folder.is_dir():
        raise UserError(f"packages must be installed packages such as numpy or torch.nn, got {package!r}")
    return folder


def read_package(folder: Path) -> Iterator[str]:
    """Yield the docstrings of all modules, classes and functions under a folder, as plain text."""
    for file in list_files(folder, (".py",), "Python source"):
        if SKIPPED & set(file.relative_to(folder).parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):  # templates, and files for other versions of Python
            continue
        yield from map(to_prose, docstrings(tree))


def docstrings(node: Any) -> Iterator[str]:
    """Yield the docstrings of a module, class or function and of those in it, in the order of lines."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        docstring = ast.get_docstring(node)
        if docstring:
            yield docstring
    for child in node.body:  # faster than ast.walk: one node in a hundred is a statement with a body
        if hasattr(child, "body"):
            yield from docstrings(child)


def to_prose(docstring: str) -> str:
    r"""Return a docstring without doctests and blocks of code.

    Example:
        >>> to_prose("Add, as in::\n\n    add(1, 2)\n\nSee :func:`sub`.\n\n>>> add(1, 2)\n3\n\nNever slow.")
        'Add, as in::\nSee  `sub`.\nNever slow.'
    """
    kept: list[str] = []
    doctest, block = False, None  # block: how far the line above a block of code is indented
    for line in docstring.splitlines():
        stripped = line.strip()
        if not stripped:
            doctest = False
            continue
        indent = len(line) - len(line.lstrip())
        if block is not None and indent > block:
            continue
        block = indent if CODE.fullmatch(line) else None
        doctest = doctest or stripped.startswith(">>>")
        if not doctest:
            kept.append(line)
    return MARKUP.sub(" ", "\n".join(kept))
