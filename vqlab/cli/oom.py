"""Sizes that no memory holds, said in one line."""

import re
from collections.abc import Sequence

from vqlab.errors import UserError

# How torch, NumPy, Python and C say it: of memory, and of sizes that are beyond the numbers of a computer.
NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "bad_alloc", "bad allocation")
BEYOND = (
    "Storage size calculation overflowed",
    "Overflow when unpacking long",
    "Maximum allowed dimension exceeded",
    "Maximum allowed size exceeded",
    "array is too big",
    "too large to convert to C",
    "too big to convert",
    "cannot fit 'int' into an index-sized integer",
)


def too_large(error: BaseException, args: Sequence[str]) -> UserError | None:
    """Return the one line for a size that is too large, None if ``error`` is another.

    Args:
        error: What was raised.
        args: The command's arguments; the large numbers among them are named.

    Example:
        >>> str(too_large(MemoryError(), ["fit", "--data.batch_size=1000000000"]))[:60]
        'this needs more memory than there is: lower --data.batch_siz'
    """
    text = str(error)
    if isinstance(error, MemoryError) or any(mark in text for mark in NO_MEMORY):
        what = "this needs more memory than there is"
    elif any(mark in text for mark in BEYOND):
        what = "a size is larger than computers count"
    else:
        return None
    large = [arg for arg in args if re.fullmatch(r"--[\w.]+=-?[\d.e+]*(\d{6,}|e\+?\d+)", arg)]
    mend = ", ".join(large) or "--data.batch_size, or the sizes of the networks under --model"
    reason = (text.splitlines() or [""])[0]
    return UserError(f"{what}: lower {mend}" + (f" ({reason[:160]})" if reason else ""))
