"""What a checkpoint says besides its weights, read at once, without torch, and without running anything in it."""

import math
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

from vqlab.errors import UserError, read_error

# What torch.load takes with weights_only=True, by module; nothing of it is called here either.
PLAIN = {"collections", "torch", "torch._utils", "torch.storage", "torch.nn.parameter", "_codecs"}
PLAIN_BUILTINS = {"set", "bytearray", "complex"}


def read_header(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's plain values; its tensors become :class:`Weight`, of which the shape alone is known.

    Raises:
        UserError: If the file is missing, truncated, no Lightning checkpoint, or holds anything but plain data.
    """
    path = require_file(path)
    try:
        found, foreign = open_header(path)
    except Exception as error:  # unpickling raises whatever the damaged bytes lead it to
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        message = f"checkpoint {path} is damaged or no checkpoint ({reason}): use another file"
        raise read_error(f"checkpoint {path}", error, message) from None
    if foreign:
        names = ", ".join(sorted(foreign))[:160]
        raise UserError(f"checkpoint {path} holds Python objects that vqlab refuses to unpickle ({names})")
    if not isinstance(found, dict) or not isinstance(found.get("state_dict"), dict):
        raise UserError(
            f"{path} is not a Lightning checkpoint (it has no state_dict): give a .ckpt file of a vqlab run"
        )
    return found


def require_file(path: str | Path) -> Path:
    """Return the path of a checkpoint.

    Raises:
        UserError: If there is no such file; where it is a folder, it names a checkpoint in it.
    """
    path = Path(path)
    if path.is_dir():
        inside = [
            file for depth in ("", "checkpoints/", "*/checkpoints/") for file in sorted(path.glob(f"{depth}*.ckpt"))
        ]
        best = next((file for file in inside if file.name == "best.ckpt"), inside[0] if inside else None)
        give = best or "a checkpoint, as runs/<model>/<name>/checkpoints/best.ckpt"
        last = " (or last.ckpt, to resume)" if best and best.with_name("last.ckpt") in inside[1:] else ""
        raise UserError(f"{path} is a folder: give {give}{last}")
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist: look under runs/<model>/<name>/checkpoints/")
    return path


def checkpoint_step(path: Path) -> int:
    """Return the step that a checkpoint was written at, -1 if it cannot be read."""
    try:
        return int(open_header(path)[0]["global_step"])
    except Exception:  # as in read_header
        return -1


def open_header(path: Path) -> tuple[Any, set[str]]:
    """Return what a file holds that torch wrote, and the names of classes and functions in it that are not plain."""
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(path)
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if name is None:
            raise KeyError("it has no data.pkl")
        outline = Outline(archive.open(name))
        return outline.load(), outline.foreign


class Outline(pickle.Unpickler):
    """Reads the plain values of a pickle and runs nothing in it: tensors and objects become :class:`Blank`.

    Attributes:
        foreign: Dotted names of what a checkpoint should not hold.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.foreign: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for every class and function."""
        if module not in PLAIN and not (module in ("builtins", "__builtin__") and name in PLAIN_BUILTINS):
            self.foreign.add(f"{module}.{name}")
        return Weight if module == "torch._utils" and name.startswith("_rebuild_tensor") else Blank

    def persistent_load(self, pid: Any) -> Any:
        """Return nothing for the bytes of a tensor."""
        return None


class Blank(dict):
    """Takes everything that a pickle may do to an object, and keeps of it what a dict would."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Blank":  # noqa: D102
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> "Blank":  # noqa: D102
        return Blank()

    def __hash__(self) -> int:  # type: ignore[override]  # it may be a key
        return id(self)

    def __setstate__(self, state: Any) -> None: ...

    def append(self, item: Any) -> None:
        """Keep nothing."""

    def extend(self, items: Any) -> None:
        """Keep nothing."""


class Weight(Blank):
    """A tensor without its values.

    Attributes:
        size: How many values it has.
    """

    def __init__(self, storage: Any = None, offset: Any = 0, shape: Any = (), *args: Any) -> None:
        super().__init__()
        self.size = math.prod(shape)
