"""The one exception that vqlab raises for what a user can correct."""


class UserError(ValueError):
    """A mistake that the user can correct; its message is one line that names the setting and the rule.

    The command line prints the message and exits with status 2. In Python it is a ``ValueError`` like any other.

    Example:
        >>> raise UserError("num_embeddings must be at least 1, got 0: set --model.quantizer.num_embeddings=512")
        Traceback (most recent call last):
        ...
        vqlab.errors.UserError: num_embeddings must be at least 1, got 0: set --model.quantizer.num_embeddings=512
    """

    @property
    def line(self) -> str:
        """The message in one line, without the traceback that a process which loads data puts around it."""
        return " ".join(str(self).rpartition("vqlab.errors.UserError: ")[2].split())


def read_error(path: object, error: BaseException, message: str) -> UserError:
    """Return the error for a file that a reader gave up: its ``message``, unless memory was short.

    Example:
        >>> read_error("a.npy", MemoryError(), "a.npy is damaged: save it again")
        UserError('not enough memory to read a.npy: free some, or use a smaller file')
    """
    is_short = isinstance(error, MemoryError) or "allocate memory" in str(error)  # torch's is a RuntimeError
    return UserError(f"not enough memory to read {path}: free some, or use a smaller file" if is_short else message)
