"""The exception for mistakes that a user can correct."""

import difflib
from collections.abc import Sequence


class UserError(ValueError):
    """A mistake that the user can correct; its message names setting and rule, and the command ends with status 2.

    Example:
        >>> raise UserError("num_embeddings must be at least 1, got 0: set --model.quantizer.num_embeddings=512")
        Traceback (most recent call last):
        ...
        vqlab.errors.UserError: num_embeddings must be at least 1, got 0: set --model.quantizer.num_embeddings=512
    """

    @property
    def line(self) -> str:
        """The message in one line, without the traceback that a DataLoader worker adds."""
        return " ".join(str(self).rpartition("vqlab.errors.UserError: ")[2].split())


def suggest(name: str, known: Sequence[str], otherwise: str = "") -> str:
    """Return a hint with the closest known name, or ``otherwise`` (default: all names)."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else otherwise or f"choose from {', '.join(known)}"


def read_error(path: object, error: BaseException, message: str) -> UserError:
    """Return the error for a file that cannot be read: ``message``, or a message about too little memory.

    Example:
        >>> read_error("a.npy", MemoryError(), "a.npy is damaged: save it again")
        UserError('not enough memory to read a.npy: free some, or use a smaller file')
    """
    is_short = isinstance(error, MemoryError) or "allocate memory" in str(error)  # torch's is a RuntimeError
    return UserError(f"not enough memory to read {path}: free some, or use a smaller file" if is_short else message)
