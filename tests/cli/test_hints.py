"""Every option in a message of vqlab exists in the class that raises it."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import lightning

import vqlab
from vqlab.cli.errors import constructor_arguments
from vqlab.cli.lightning import ALWAYS

ROOT = Path(vqlab.__file__).parent
PUBLIC = [cls for name in vqlab.__all__ if inspect.isclass(cls := getattr(vqlab, name))]
GROUPS = {
    "data": [cls for cls in PUBLIC if issubclass(cls, lightning.LightningDataModule)],
    "model": [cls for cls in PUBLIC if issubclass(cls, lightning.LightningModule)],
    "trainer": [lightning.Trainer],
    **{name: [cls] for name, cls in ALWAYS.items()},
}
PARTS = [cls for cls in PUBLIC if not issubclass(cls, (lightning.LightningDataModule, lightning.LightningModule))]


def messages(node: ast.AST, owner: str = "") -> Iterator[tuple[int, str, str]]:
    """Yield line, class and text of each string."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in child.values]
            yield child.lineno, owner, "".join(map(str, parts))
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.lineno, owner, child.value
        else:
            yield from messages(child, child.name if isinstance(child, ast.ClassDef) else owner)


def options() -> Iterator[tuple[str, type | None, str]]:
    """Yield place, class and option of each ``--group.option`` in the strings of vqlab."""
    for path in sorted(ROOT.rglob("*.py")):
        for line, owner, text in messages(ast.parse(path.read_text())):
            module = ".".join(["vqlab", *path.relative_to(ROOT).with_suffix("").parts])
            other = re.search(r"--(data|model)[ =][A-Z]", text)  # options of the class in the message
            cls = getattr(import_module(module), owner, None) if owner and "--" in text and not other else None
            for option in re.findall(r"--([a-z_]+(?:\.\w+)+)(?![\w.{])", re.sub(r"(?s)>>> .*", "", text)):
                yield f"{path.relative_to(ROOT)}:{line}", cls, option.replace(".init_args", "")


def exists(option: str, cls: type | None) -> bool:
    """Return whether ``cls`` has the option, or any class of the option's group if ``cls`` is not one of them."""
    group, *parts, name = option.split(".")
    if group == "wandb" or name in ("help", "class_path"):
        return name in ("mode", "project", "log_model", "help", "class_path")
    classes = PARTS if parts else GROUPS[group]
    raising = [found for found in classes if cls and issubclass(found, cls)]
    known = all(any(part in constructor_arguments(found) for found in [*GROUPS[group], *PARTS]) for part in parts)
    return known and any(name in constructor_arguments(found) for found in raising or classes)


def test_every_option_in_a_message_exists():
    found = list(options())
    assert len(found) > 20
    assert [(place, option) for place, cls, option in found if not exists(option, cls)] == []
