"""Splits of a data set, recognised by the names of its folders."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from vqlab.data.files import list_files, list_folders
from vqlab.errors import UserError

SPLITS = ("train", "val", "test")
# What others call a split, in lower case -> how vqlab calls it.
SPLIT_OF = {
    name: split
    for split, names in {
        "train": ("train", "training"),
        "val": ("val", "valid", "validation", "dev"),
        "test": ("test", "testing", "eval", "evaluation"),
    }.items()
    for name in names
}
FILLERS = {"set", "data", "dataset", "images", "split"}  # words that may stand beside the name of a split
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def split_folders(root: Path, extensions: tuple[str, ...], what: str) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Return the folder and the files of each split, or those of the split "" where the splits are still to be drawn.

    Folders ``train``, ``val`` and ``test`` in ``root``, or with another usual name (:data:`SPLIT_OF`, capital letters
    or not), are the splits; ``train`` must be there. Where ``train`` is alone, the splits are drawn from its files.

    Args:
        root: The folder.
        extensions: Extensions of the files, see :func:`~vqlab.data.files.list_files`.
        what: What messages call the files' content.

    Raises:
        UserError: If there are no such files, some folders are named as splits but the layout is another, or a folder
            for validation or test lies among the files to train on.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("Training/cat/1.txt", "Testing/cat/2.txt"):
        ...     (root / name).parent.mkdir(parents=True)
        ...     (root / name).touch()
        >>> folders, files = split_folders(root, (".txt",), "texts")
        >>> {split: [str(file.relative_to(root)) for file in group] for split, group in files.items()}
        {'train': ['Training/cat/1.txt'], 'test': ['Testing/cat/2.txt']}
    """
    names = list_folders(root)
    split_of = name_splits(names)
    others = [name for name in names if split_of and name not in split_of and _holds_files(root / name, extensions)]
    if split_of and (others or "train" not in split_of.values() or max(Counter(split_of.values()).values()) > 1):
        raise _no_layout(root, [*split_of, *others], list(split_of))
    folders = {split: root / name for split in SPLITS for name, its in split_of.items() if its == split}
    if len(folders) < 2:
        folders = {"": folders.get("train", root)}
    files = {split: list_files(folder, extensions, what) for split, folder in folders.items()}
    for split in folders.keys() & {"", "train"}:
        require_no_held_out((file.relative_to(folders[split]).as_posix() for file in files[split]), folders[split])
    return folders, files


def name_splits(names: Iterable[str]) -> dict[str, str]:
    """Return the split of each name that names one.

    Other words may stand beside the split only where the names make both a split for training and a held-out one.

    Example:
        >>> name_splits(["Train", "VALID", "bullet-train"])
        {'Train': 'train', 'VALID': 'val', 'bullet-train': 'train'}
        >>> name_splits(["test_set", "bullet-train", "seg_test"]), name_splits(["cat", "bullet-train"])
        ({'test_set': 'test', 'bullet-train': 'train', 'seg_test': 'test'}, {})
    """
    words = {name: [word.lower().removesuffix("set") or "set" for word in WORD.findall(name)] for name in names}
    found = {name: {SPLIT_OF[word] for word in group if word in SPLIT_OF} for name, group in words.items()}
    split_of = {name: splits.pop() for name, splits in found.items() if len(splits) == 1}
    if {"train"} < set(split_of.values()):
        return split_of
    return {name: split for name, split in split_of.items() if set(words[name]) <= SPLIT_OF.keys() | FILLERS}


def group_by_split(names: list[str], where: str | Path) -> dict[str, list[int]]:
    """Return the positions of the names of each split; all are of the split "" where none names one.

    Raises:
        UserError: If some name splits, and others do not or none is for training.

    Example:
        >>> group_by_split(["test-0", "train-0", "train-1"], "shards")
        {'test': [0], 'train': [1, 2]}
    """
    split_of = name_splits(dict.fromkeys(names))
    groups: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(names):
        groups[split_of.get(name, "")].append(position)
    if split_of and ("" in groups or "train" not in groups):
        raise _no_layout(where, list(dict.fromkeys(names)), list(split_of))
    return dict(groups)


def require_no_held_out(files: Iterable[str], where: str | Path) -> None:
    """Raise UserError if a folder for validation or test is among the parents of files to train on.

    Args:
        files: Paths from ``where``, with forward slashes.
        where: What the message calls their root.
    """
    inside: dict[str, set[str]] = defaultdict(set)
    for folder in {file.rpartition("/")[0] for file in files} - {""}:
        names = folder.split("/")
        for depth, name in enumerate(names):
            inside["/".join([str(where), *names[:depth]])].add(name)
    for parent in sorted(inside):
        names = sorted(inside[parent])
        held_out = [name for name, split in name_splits(names).items() if split != "train"]
        if held_out:
            raise _no_layout(parent, names, held_out)


def _no_layout(where: str | Path, names: list[str], split_names: list[str]) -> UserError:
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return UserError(
        f"{where} holds {shown}: set --data.path to a folder with train/ and val/, test/ or both and no other folders, "
        f"or rename {', '.join(split_names[:3])} if that is no split"
    )


def _holds_files(folder: Path, extensions: tuple[str, ...]) -> bool:
    try:
        return bool(list_files(folder, extensions, ""))
    except UserError:
        return False
