"""Networks and other plain-torch parts, without Lightning."""

from vqlab.nn.s4d import S4D

__all__ = ["S4D"]
