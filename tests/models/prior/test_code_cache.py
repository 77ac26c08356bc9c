"""Codes are computed once per image and come back as they were."""

import pytest
import torch

from vqlab.models.prior.code_cache import CodeCache


@pytest.mark.parametrize(("num_embeddings", "bytes_"), [(2**15, 2), (2**15 + 1, 4), (2**20, 4)])
def test_codes_come_back_as_they_were(num_embeddings, bytes_):
    every = torch.randint(num_embeddings, (100, 6))
    every[0, 0] = num_embeddings - 1
    cache, calls = CodeCache(num_embeddings), []
    for _ in range(3):
        for index in torch.randperm(100).split(10):
            found = cache.get(index, lambda index=index: calls.append(index) or every[index])
            assert torch.equal(found, every[index])
            assert found.dtype == torch.int64
    assert len(calls) == 10, "each image once, in the first pass"
    assert cache.codes.element_size() == bytes_


def test_a_batch_with_a_new_image_is_computed_whole():
    cache, calls = CodeCache(8), []
    for index in ([0, 1], [1, 2], [5, 0], [2, 1]):
        index = torch.tensor(index)
        found = cache.get(index, lambda index=index: calls.append(index.tolist()) or index[:, None] + 1)
        assert found.flatten().tolist() == [i + 1 for i in index.tolist()]
    assert calls == [[0, 1], [1, 2], [5, 0]]
