"""Docstrings of installed packages: English text without a download."""

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

# Two parts of torch: the whole takes longer to parse than all others together.
PACKAGES: tuple[str, ...] = ("lightning", "matplotlib", "numpy", "scipy", "skimage", "sklearn")
PACKAGES += ("torch.distributed", "torch.nn", "torchvision")
SKIPPED = frozenset({"tests", "testing", "externals", "_vendor"})  # folders: tests, and copies of other packages
# A line above an indented block of code.
CODE = re.compile(r" *(\.\. (code|code-block|sourcecode|math|plot|testcode|testsetup)::.*|(?! *\.\. ).*::)")
# Inline mathematics, and the marks of roles, directives and links.
MARKUP = re.compile(r":math:`[^`]*`|:[\w:]+:(?=`)|\.\. [\w-]+::|https?://\S+")


class Docstrings(RawTextDataModule):
    """Docstrings of modules, classes and functions, one document each: the default without a network.

    They are read from source files, without an import, examples, code and repetitions: about 10,700 of the default
    packages. The label is the package.

    Args:
        packages: Import names of installed packages, or of parts such as ``torch.nn``.
        min_words: Leave out docstrings with fewer words, separated by spaces.
        **common: Arguments of :class:`~vqlab.data.text.raw.RawTextDataModule`.

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
        seen: set[str] = set()
        for package, folder in self._folders.items():
            for file in list_files(folder, (".py",), "Python source"):
                if SKIPPED & set(file.relative_to(folder).parts):
                    continue
                try:
                    tree = ast.parse(file.read_bytes())
                except (SyntaxError, ValueError):  # templates, and files for other versions of Python
                    continue
                for text in map(to_prose, docstrings(tree)):
                    if len(text.split()) >= self.min_words and text not in seen:
                        seen.add(text)
                        yield Document(text, package)


def find_package(package: str) -> Path:
    """Return the folder of an installed package or of a part of it, without importing it."""
    top, *parts = package.split(".")
    spec = find_spec(top) if top.isidentifier() else None
    folders = [Path(root, *parts) for root in (spec and spec.submodule_search_locations) or ()]
    if not folders or not folders[0].is_dir():
        raise UserError(f"packages must be installed packages such as numpy or torch.nn, got {package!r}")
    return folders[0]


def docstrings(node: Any) -> Iterator[str]:
    """Yield the docstrings of a module, class or function and of those in it, in the order of lines."""
    documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    if documented and (docstring := ast.get_docstring(node)):
        yield docstring
    for child in node.body:  # faster than ast.walk: one node in a hundred is a statement with a body
        if hasattr(child, "body"):
            yield from docstrings(child)


def to_prose(docstring: str) -> str:
    """Return a docstring without doctests and blocks of code."""
    kept: list[str] = []
    doctest, block = False, None  # block: indentation of the line above a block of code
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
