"""Docstrings as documents: which docstrings of a package are read, and which parts of a docstring."""

import sys

import pytest

from tests.helpers.refusal import refused
from vqlab.data.text.docstrings import Docstrings, find_package, to_prose

MODULE = '''"""{} module of many words."""

class Thing:
    """A thing with words."""
    async def act(self):
        """Act in some words."""
        def inner():
            """Inner words of it."""

if True:
    def late():
        r"""Late words, \\d escaped."""

def silent(): pass
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that raises an error when it is imported."""
    for name, text in {
        "__init__": 'raise RuntimeError("imported")',
        "b": MODULE.format("Second"),
        "a/c": MODULE.format("First"),
        "tests/t": '"""Words of a test."""',
        "broken": "def (",
    }.items():
        (tmp_path / "pack" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pack" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return "pack"


def texts(*packages, min_words):
    return [document.text for document in Docstrings(packages=packages, min_words=min_words).read()]


def test_docstrings_are_read_in_the_order_of_files_and_lines_without_duplicates_and_imports(package):
    first, second = "First module of many words.", "Second module of many words."
    thing = ["A thing with words.", "Act in some words.", "Inner words of it.", "Late words, \\d escaped."]
    assert texts(package, min_words=3) == [first, *thing, second]
    assert texts(package, min_words=5) == [first, second]
    assert texts("pack.a", min_words=4) == [first, *thing]
    assert {document.label for document in Docstrings(packages=(package,), min_words=3).read()} == {package}
    assert package not in sys.modules


def test_code_and_markup_are_removed():
    docstring = """Compute a sum::

    code = 1

    more = code
Back to the text: see :func:`add` and :math:`\\alpha + 1`.

    Indented text stays.

.. code-block:: python
   :linenos:

   hidden = 2

.. note:: Kept words.

>>> add(1)
2
after

See https://example.org/page for more."""
    assert " ".join(to_prose(docstring).split()) == (
        "Compute a sum:: Back to the text: see `add` and . Indented text stays. python Kept words. See for more."
    )


def test_real_docstrings_make_a_corpus():
    data, again = (Docstrings(packages=("skimage", "torch.optim"), max_vocab=500, batch_size=32) for _ in range(2))
    assert data.class_names == ["skimage", "torch.optim"]
    assert data.vocab_size == 500
    assert data.train_size > 500
    assert {"pixels", "optimizer"} <= set(data.vocabulary)
    assert not {"the", "versionadded", "https"} & set(data.vocabulary)
    assert (data.train_counts() != again.train_counts()).nnz == 0
    batch = next(iter(data.train_dataloader()))
    assert batch["bow"].shape == (32, 500)


@pytest.mark.parametrize("name", ["no_such_package", "torch.no_such_part", "sys", "../secret", ""])
def test_unknown_packages_are_refused(name):
    with refused("packages must be installed", repr(name)):
        find_package(name)
