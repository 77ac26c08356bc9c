"""Splits of a data set by the names of its folders."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from vqlab.data.files import find_files, is_hidden, list_files
from vqlab.errors import UserError

SPLITS = ("train", "val", "test")
SPLIT_OF = dict.fromkeys(("train", "training"), "train")  # usual name of a split, in lower case -> the split
SPLIT_OF |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
SPLIT_OF |= dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
FILLERS = {"set", "data", "dataset", "images", "split"}  # words that a folder's name may contain beside the split
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def split_folders(root: Path, extensions: tuple[str, ...], what: str) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Return the folder and the files of each split, or of the split "" if there is at most a folder ``train``.

    Raise UserError for layouts that may mix held-out files with training files.
    """
    items = root.iterdir() if root.is_dir() else ()
    names = sorted(item.name for item in items if item.is_dir() and not is_hidden(item.name))
    split_of = name_splits(names)
    others = [name for name in names if split_of and name not in split_of and find_files(root / name, extensions)]
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
    """Return the split of each name. Names may contain any other words if they give a training and another split."""
    words = {name: [word.lower().removesuffix("set") or "set" for word in WORD.findall(name)] for name in names}
    found = {name: {SPLIT_OF[word] for word in group if word in SPLIT_OF} for name, group in words.items()}
    split_of = {name: splits.pop() for name, splits in found.items() if len(splits) == 1}
    if {"train"} < set(split_of.values()):
        return split_of
    return {name: split for name, split in split_of.items() if set(words[name]) <= SPLIT_OF.keys() | FILLERS}


def group_by_split(names: list[str], where: str | Path) -> dict[str, list[int]]:
    """Return the positions of the names of each split ("" for none); raise UserError if only some names have one."""
    split_of = name_splits(dict.fromkeys(names))
    groups: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(names):
        groups[split_of.get(name, "")].append(position)
    if split_of and ("" in groups or "train" not in groups):
        raise _no_layout(where, list(dict.fromkeys(names)), list(split_of))
    return dict(groups)


def require_no_held_out(files: Iterable[str], where: str | Path) -> None:
    """Raise UserError if a parent folder of files (paths relative to ``where``) is a validation or test split."""
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
        f"{where} holds {shown}: set path=FOLDER to a folder with train/ and val/, test/ or both and no others, or "
        f"rename {', '.join(split_names[:3])} if that is not a split"
    )
