"""The code length of the best model without context."""

import numpy as np
import pytest
import torch

from vqlab.metrics.codes.unigram import unigram_bits


def test_against_counts_by_hand():
    tokens = torch.randint(5, (200, 3), generator=torch.Generator().manual_seed(0))
    counts = torch.stack([torch.bincount(column, minlength=5) for column in tokens.T])
    new = torch.randint(5, (40, 3), generator=torch.Generator().manual_seed(1))
    bits = [
        np.log2(205 / (1 + (tokens[:, i] == code).sum().item())) for row in new.tolist() for i, code in enumerate(row)
    ]
    assert unigram_bits(counts.int(), new).item() == pytest.approx(np.mean(bits), rel=1e-6)


def test_before_any_training_every_code_costs_the_same():
    assert unigram_bits(torch.zeros(4, 32, dtype=torch.int32), torch.randint(32, (7, 4))).item() == pytest.approx(5)
