"""Read the plain values of a checkpoint without importing torch (3 seconds) and without running code from it."""

import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from vqlab.errors import UserError, read_error

# Modules that torch.load accepts with weights_only=True; nothing of them is called here except OrderedDict.
PLAIN = {"collections", "torch", "torch._utils", "torch.storage", "torch.nn.parameter", "_codecs"}
PLAIN_BUILTINS = {"set", "bytearray", "complex"}


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the plain values of a checkpoint, and the size of each tensor; raises UserError for another file."""
    path = require_file(path)
    try:
        found = open_header(path)
    except Exception as error:  # unpickling damaged bytes may raise any exception
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        message = f"checkpoint {path} is damaged or no checkpoint ({reason}): use another file"
        raise read_error(f"checkpoint {path}", error, message) from None
    if not isinstance(found, dict) or not isinstance(found.get("state_dict"), dict):
        raise UserError(f"{path} is not a Lightning checkpoint (it has no state_dict): give a .ckpt of a vqlab run")
    return found


def require_file(path: str | Path) -> Path:
    """Return the path of a checkpoint; raises UserError if it does not exist or is a folder."""
    path = Path(path)
    if path.is_dir():
        patterns = ("best.ckpt", "checkpoints/best.ckpt", "*/checkpoints/best.ckpt", "*.ckpt")
        inside = [file for pattern in patterns for file in sorted(path.glob(pattern))]
        raise UserError(f"{path} is a folder: give {[*inside, 'runs/<model>/<name>/checkpoints/best.ckpt'][0]}")
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist: look under runs/<model>/<name>/checkpoints/")
    return path


def checkpoint_step(path: Path) -> int:
    """Return the step of a checkpoint, -1 if it cannot be read."""
    try:
        return int(open_header(path)["global_step"])
    except Exception:  # as in read_header
        return -1


def open_header(path: Path) -> Any:
    """Return the content of a file that torch wrote; a damaged file may raise any exception."""
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith("data.pkl")), "data.pkl")
        return HeaderUnpickler(archive.open(name)).load()


class HeaderUnpickler(pickle.Unpickler):
    """Unpickle plain values, with a placeholder for every class and function of torch."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the placeholder; raises UnpicklingError for other objects."""
        if module not in PLAIN and not (module in ("builtins", "__builtin__") and name in PLAIN_BUILTINS):
            raise pickle.UnpicklingError(f"it holds Python objects that vqlab refuses to unpickle ({module}.{name})")
        if name == "OrderedDict":
            return OrderedDict
        return Weight if name.startswith("_rebuild_tensor") else Blank

    def persistent_load(self, pid: Any) -> Any:
        """Leave out the bytes of a tensor."""
        return None


class Blank(dict):
    """Placeholder for an object, without its content."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __hash__(self) -> int:  # type: ignore[override]  # it may be a key
        return id(self)

    def __setstate__(self, state: Any) -> None: ...


class Weight(Blank):
    """Placeholder for a tensor; ``size`` is the number of its values."""

    def __init__(self, storage: Any = None, offset: Any = 0, shape: Any = (), *args: Any) -> None:
        self.size = math.prod(shape)
