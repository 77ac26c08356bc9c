"""Entropy coding: exact inverses, the rate, and tables that depend on the weights alone."""

import numpy as np
import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.interop.entropy_coding import (
    decode_codes,
    decode_series,
    encode_codes,
    encode_series,
    fixed_rate,
    frequency_tables,
)
from vqlab.quantizers import FSQ, ProductQuantizer, ResidualQuantizer, VectorQuantizer


def geometric(count, *sizes):
    """Return codes (count, Q) that are drawn from quantizers with geometric counts, and their tables."""
    parts = []
    for size in sizes:
        part = VectorQuantizer(size, 2)
        part.ema_counts.copy_(0.8 ** torch.arange(size))
        parts += frequency_tables(part)
    rng = np.random.default_rng(0)
    return np.stack([rng.choice(len(table), count, p=table / table.sum()) for table in parts], 1), parts


@pytest.mark.parametrize("count", [1, 2, 10_000])
def test_codes_are_restored_and_take_the_bits_of_their_entropy(count):
    codes, tables = geometric(count, 8, 50, 300)
    data = encode_codes(codes, tables)
    np.testing.assert_array_equal(decode_codes(data, count, tables), codes)
    ideal = sum(-np.log2(table / table.sum())[column].sum() for table, column in zip(tables, codes.T, strict=True))
    assert -64 <= 8 * len(data) - ideal <= 64 + 1e-3 * ideal
    assert fixed_rate(tables) == pytest.approx(3 + np.log2(50) + np.log2(300))


def test_bytes_of_the_coder_are_those_of_the_first_version():
    codes, tables = geometric(12, 8, 50)
    codes = np.arange(24).reshape(12, 2) % 8
    assert encode_codes(codes, tables).hex() == "3d1e39c319b1cc4a227309e106000000"


def test_code_that_never_occurred_can_be_coded():
    quantizer = VectorQuantizer(512, 2)
    quantizer.ema_counts.zero_()
    quantizer.ema_counts[3] = 1e-3
    (table,) = frequency_tables(quantizer)
    codes = np.arange(512)[:, None]
    np.testing.assert_array_equal(decode_codes(encode_codes(codes, [table]), 512, [table]), codes)
    assert table[0] / table.sum() == pytest.approx(1 / 256 / 512, rel=1e-3)
    assert table[3] / table.sum() == pytest.approx(255 / 256, rel=1e-3)


def test_tables_of_composites_are_in_the_order_of_the_indices():
    quantizer = ResidualQuantizer(ProductQuantizer(VectorQuantizer(4, 2), 2), num_quantizers=3)
    for number, part in enumerate(part for depth in quantizer.quantizers for part in depth.quantizers):
        part.ema_counts[number % 4] = 100 + number
    tables = frequency_tables(quantizer)
    assert [int(table.argmax()) for table in tables] == [0, 1, 2, 3, 0, 1]
    assert len(tables) == quantizer.num_codebooks


@pytest.mark.parametrize("quantizer", [FSQ([5, 4]), VectorQuantizer(20, 2, codebook_update="loss")])
def test_quantizer_without_counts_has_equal_frequencies(quantizer):
    tables = frequency_tables(quantizer)
    assert len(tables) == quantizer.num_codebooks
    assert all(len({*table.tolist()}) == 1 and len(table) == quantizer.num_embeddings for table in tables)


def test_codebook_that_is_too_large_is_refused():
    with refused("num_embeddings must be at most 1048576"):
        frequency_tables(FSQ([64] * 4))


def test_data_of_another_number_of_positions_are_refused_before_memory_is_allocated():
    codes, tables = geometric(100, 8)
    data = encode_codes(codes, tables)
    for wrong, count in [(data, 2**40), (data + b"\1\0\0\0", 100), (data[:-1], 100), (data + bytes(4), 100)]:
        with pytest.raises(ValueError, match=r"too (few|many)|buffer size|zero word"):
            decode_codes(wrong, count, tables)


@pytest.mark.parametrize("values", [[0], [-5], [0] * 50, [1, -1] * 20, [10**6, -(10**6), 3], range(-300, 300, 7)])
def test_series_is_restored_from_its_front_of_the_bytes(values):
    data = encode_series(np.array(values))
    found, used = decode_series(data + b"rest", len(values))
    assert (found.tolist(), used) == ([*values], len(data))


def test_slow_series_takes_few_bits():
    steps = np.random.default_rng(0).choice([-1, 0, 1], 800, p=[0.15, 0.7, 0.15])
    assert 8 * len(encode_series(40 + steps.cumsum())) < 1.7 * 800


def test_series_that_ends_early_is_refused():
    data = encode_series(np.arange(0, 1000, 9))
    for short in (data[:1], data[:20], data[:-3], bytes([40]) + data[1:]):
        with pytest.raises(ValueError, match="too few"):
            decode_series(short, 112)
