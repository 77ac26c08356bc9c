"""Sparse and mixed documents are what their dense matrix is, in product and gradient."""

import pytest
import torch

from vqlab.nn.topic.documents import Bags, Mixtures, dense


def sparse_rows(batch=7, words=30):
    bow = torch.rand(batch, words, dtype=torch.float64) * (torch.rand(batch, words) < 0.2)
    bow[:, 3] += 0.1  # no row is empty
    return bow


def test_bags_multiply_as_their_rows_over_their_sums():
    bow, weight = sparse_rows(), torch.randn(30, 5, dtype=torch.float64, requires_grad=True)
    other = weight.detach().clone().requires_grad_()
    product, expected = Bags(bow) @ weight, (bow / bow.sum(1, keepdim=True)) @ other
    torch.testing.assert_close(product, expected)
    cotangent = torch.randn_like(product)
    product.backward(cotangent)
    expected.backward(cotangent)
    torch.testing.assert_close(weight.grad, other.grad)


def test_mixtures_multiply_as_their_dense_matrix():
    theta = torch.rand(7, 4, dtype=torch.float64).softmax(1).requires_grad_()
    topics = torch.rand(4, 30, dtype=torch.float64).softmax(1).requires_grad_()
    weight = torch.randn(30, 5, dtype=torch.float64)
    documents = Mixtures(theta, topics)
    torch.testing.assert_close(documents @ weight, dense(documents) @ weight)
    torch.testing.assert_close(dense(documents).sum(1), torch.ones(7, dtype=torch.float64))
    ours = torch.autograd.grad((documents @ weight).square().sum(), (theta, topics))
    expected = torch.autograd.grad((theta @ topics @ weight).square().sum(), (theta, topics))
    for gradient, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shares_of_half_precision_counts_are_float32(dtype):
    assert (Bags(torch.tensor([[3, 1]], dtype=dtype)) @ torch.eye(2)).tolist() == [[0.75, 0.25]]
