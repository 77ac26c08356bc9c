"""The largest number of layers."""

from vqlab.errors import UserError

MOST = 1000  # beyond, a network takes minutes to build, and none has ever been trained


def check_layers(**counts: int) -> None:
    """Raise UserError if a number of layers, each with weights of its own, is too large to be meant.

    Example:
        >>> check_layers(num_res_blocks=2, depth=10**9)
        Traceback (most recent call last):
        ...
        vqlab.errors.UserError: depth must be at most 1000, got 1000000000: each is a layer with weights of its own
    """
    for name, count in counts.items():
        if count > MOST:
            raise UserError(f"{name} must be at most {MOST}, got {count}: each is a layer with weights of its own")
