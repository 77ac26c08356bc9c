"""The rules by which a training is found ill."""
