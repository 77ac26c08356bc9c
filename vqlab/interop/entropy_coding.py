"""Entropy coding of codes by fixed frequencies, and of slowly changing integers by Rice codes."""

import math
from typing import Any

import constriction
import numpy as np

from vqlab.errors import UserError
from vqlab.quantizers import Quantizer, VectorQuantizer
from vqlab.quantizers.composite import Composite

MOST_CODES = 2**20
RESOLUTION = 2**20  # of the most frequent code
UNIFORM = 256  # 1/256 of the probability is the same for all codes

Categorical = constriction.stream.model.Categorical
AnsCoder = constriction.stream.stack.AnsCoder


def frequency_tables(quantizer: Quantizer) -> list[np.ndarray]:
    """Return the frequencies (K,) int64 of the codes of each codebook, in the order of the flattened indices.

    They are the running counts of a ``VectorQuantizer``, and equal for other quantizers. All operations round exactly,
    so the tables are the same on each machine.
    """
    if isinstance(quantizer, Composite):
        return [table for part in quantizer.quantizers for table in frequency_tables(part)]
    size = quantizer.num_embeddings
    if size > MOST_CODES:
        raise UserError(f"num_embeddings must be at most {MOST_CODES} to write codes, got {size}")
    counts = np.ones(size)
    if isinstance(quantizer, VectorQuantizer) and quantizer.codebook_update == "ema":
        counts = quantizer.ema_counts.double().cpu().numpy()
    whole = np.rint(counts / counts.max() * RESOLUTION).astype(np.int64)
    return [(UNIFORM - 1) * whole + whole.sum() // size + 1] * quantizer.num_codebooks


def fixed_rate(tables: list[np.ndarray]) -> float:
    """Return the bits of a position if each code takes log2 K bits."""
    return sum(math.log2(len(table)) for table in tables)


def encode_codes(codes: np.ndarray, tables: list[np.ndarray]) -> bytes:
    """Return codes (n, Q), with a table for each column, as 32-bit words of an ANS coder (Duda 2013)."""
    coder = AnsCoder()
    for column, table in reversed([*zip(codes.T.astype(np.int32), tables, strict=True)]):
        coder.encode_reverse(np.ascontiguousarray(column), model_of(table))
    return coder.get_compressed().astype("<u4").tobytes()


def decode_codes(data: bytes, count: int, tables: list[np.ndarray]) -> np.ndarray:
    """Return the codes (count, Q) int64; ValueError if ``data`` are not exactly those of ``count`` positions."""
    cheapest = sum(math.log2(table.sum() / table.max()) for table in tables)
    if (
        0.99 * count * cheapest > 8 * len(data) + 64
    ):  # before memory is allocated for them; the coder's table is rounded
        raise ValueError(f"{len(data)} bytes are too few for {count} positions")
    coder = AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
    columns = [coder.decode(model_of(table), count) for table in tables]
    if not coder.is_empty():
        raise ValueError(f"{len(data)} bytes are too many for {count} positions")
    return np.stack(columns, 1).astype(np.int64)


def model_of(table: np.ndarray) -> Any:
    """Return the distribution of the codes of a table."""
    return Categorical(table / table.sum(), perfect=False)


def encode_series(values: np.ndarray) -> bytes:
    """Return the differences of integers (n,) in the best Rice code (Rice and Plaunt 1971): k, unary parts, k bits."""
    steps = np.diff(values, prepend=0)
    folded = np.where(steps < 0, -2 * steps - 1, 2 * steps)
    k = min(range(32), key=lambda k: int((folded >> k).sum()) + k * len(folded))
    ends = np.cumsum((folded >> k) + 1)
    unary = np.ones(ends[-1], np.uint8)
    unary[ends - 1] = 0
    rest = folded[:, None] >> np.arange(k) & 1
    return bytes([k]) + np.packbits(np.concatenate([unary, rest.ravel().astype(np.uint8)])).tobytes()


def decode_series(data: bytes, count: int) -> tuple[np.ndarray, int]:
    """Return ``count`` integers, and the bytes that they took; ValueError if ``data`` are too short."""
    bits = np.unpackbits(np.frombuffer(data[1:], np.uint8))
    ends = np.flatnonzero(bits == 0)[:count]
    if len(ends) < count or data[0] > 31 or ends[-1] + 1 + count * data[0] > len(bits):
        raise ValueError(f"{len(data)} bytes are too few for {count} integers")
    k, start = data[0], int(ends[-1]) + 1
    rest = bits[start : start + count * k].reshape(count, k).astype(np.int64) @ (1 << np.arange(k))
    folded = (np.diff(ends, prepend=-1) - 1 << k) + rest
    steps = np.where(folded & 1, -(folded + 1 >> 1), folded >> 1)
    return np.cumsum(steps), 1 - (-(start + count * k) // 8)
