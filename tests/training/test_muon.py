"""Muon against torch's, on matrices, and against AdamW, on the rest."""

import copy

import pytest
import torch
from torch import nn

from vqlab.training.muon import Muon, orthogonalize


def gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def test_matrices_follow_torchs_muon_and_the_rest_adamw() -> None:
    ours = nn.Sequential(nn.Linear(24, 16), nn.LayerNorm(16), nn.Linear(16, 32, bias=False))
    theirs = copy.deepcopy(ours)
    start = copy.deepcopy(ours)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    reference = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    others = [p for p in theirs.parameters() if p.ndim == 1]
    adam = torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    optimizer = Muon(ours.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(5):
        for module, optimizers in ((ours, [optimizer]), (theirs, [reference, adam])):
            gradients(module, step)
            for each in optimizers:
                each.step()
    for p, q, before in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        if p.ndim == 1:
            assert torch.equal(p, q)
        else:  # torch's works in bfloat16
            assert (p - q).norm() < 0.02 * (p - before).norm()


def test_a_convolution_is_a_matrix_with_a_row_for_each_output() -> None:
    convolution, linear = nn.Conv2d(6, 4, 3, bias=False), nn.Linear(54, 4, bias=False)
    with torch.no_grad():
        linear.weight.copy_(convolution.weight.flatten(1))
    gradients(convolution, 0)
    gradients(linear, 0)
    for module in (convolution, linear):
        Muon(module.parameters(), lr=0.1).step()
    torch.testing.assert_close(convolution.weight.flatten(1), linear.weight)


@pytest.mark.parametrize("shape", [(3, 5, 40), (3, 40, 5), (2, 8, 8)])
def test_orthogonalize_keeps_the_singular_vectors(shape: tuple[int, ...]) -> None:
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    singular = torch.empty(u.shape[0], u.shape[-1]).uniform_(0.2, 1)
    result = u.mT @ orthogonalize(u @ singular.diag_embed() @ v) @ v.mT
    diagonal = result.diagonal(dim1=-2, dim2=-1)
    assert (diagonal > 0.6).all()
    assert (diagonal < 1.3).all()
    assert (result - diagonal.diag_embed()).abs().max() < 1e-4


def test_a_group_can_be_left_to_adamw() -> None:
    tables = nn.Embedding(10, 4), nn.Embedding(10, 4)
    tables[1].load_state_dict(tables[0].state_dict())
    for table, optimizer in zip(
        tables,
        (
            Muon([{"params": tables[0].parameters(), "orthogonalize": False}], lr=0.1),
            torch.optim.AdamW(tables[1].parameters(), lr=0.1, weight_decay=0.0),
        ),
        strict=True,
    ):
        gradients(table, 0)
        optimizer.step()
    assert torch.equal(tables[0].weight, tables[1].weight)


def test_the_stored_state_continues_the_run() -> None:
    module = nn.Conv2d(3, 8, 3)
    optimizer = Muon(module.parameters(), lr=0.1)
    gradients(module, 0)
    optimizer.step()
    resumed = copy.deepcopy(module)
    second = Muon(resumed.parameters(), lr=0.1)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, chosen in ((module, optimizer), (resumed, second)):
        gradients(each, 1)
        chosen.step()
    for p, q in zip(module.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)
