"""All quantizers under torch.compile: one graph for training, one for evaluation, and the values of eager mode."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from tests.helpers.family import GRAPHS, example, trained

STEPS = 3


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def gradient(quantizer, out, z):
    return torch.autograd.grad(out.loss + out.quantized.square().sum(), [z, *quantizer.parameters()], allow_unused=True)


def assert_close(found, expected):
    assert torch.equal(found.indices, expected.indices)
    values, others = ([out.quantized, out.loss, out.terms] for out in (found, expected))
    torch.testing.assert_close(values, others, rtol=1e-5, atol=1e-5)


def check(name, backend, evaluate=True):
    """Compare training steps, updates and an evaluation with eager mode."""
    quantizer = trained(name)
    eager = copy.deepcopy(quantizer)
    quantizer.auto_update = True  # a compiled forward leaves updates to its caller
    compiled = torch.compile(quantizer, backend=backend, fullgraph=True)
    for step in range(STEPS):
        quantizer.sample_index = eager.sample_index = 6 * step + torch.arange(6)
        z, again = (example(quantizer, step).requires_grad_() for _ in range(2))
        out, expected = compiled(z), eager(again)
        assert_close(out, expected)
        torch.testing.assert_close(gradient(quantizer, out, z), gradient(eager, expected, again), rtol=1e-4, atol=1e-5)
        if expected.stats is not None:
            quantizer.update(out.stats)
            eager.update(expected.stats)
        assert counters["stats"]["unique_graphs"] == 1, f"step {step} was compiled anew"
    torch.testing.assert_close(quantizer.state_dict(), eager.state_dict(), rtol=1e-5, atol=1e-5)
    if evaluate:
        quantizer.eval(), eager.eval()
        for seed in range(2):
            z = example(quantizer, 10 + seed)
            with torch.no_grad():
                assert_close(compiled(z), eager(z))
        assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    assert not counters["recompiles"]


@pytest.mark.parametrize("name", GRAPHS)
def test_one_graph_with_the_values_of_eager_mode(name):
    check(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vector-unrevived", "gumbel"])
def test_default_backend_has_the_values_of_eager_mode(name):
    check(name, "inductor", evaluate=False)
