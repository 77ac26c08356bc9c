"""Two processes with half a batch each against one with the whole: LeCam's averages and the adaptive weight.

They run this file as a script.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from vqlab.losses.adaptive_weight import adaptive_weight
from vqlab.losses.adversarial import LeCam

WORLD, STEPS, BATCH = 2, 3, 8


def train(lecam, rank=0, world=1):
    """What the two parts say of three batches, and how many collectives they needed."""
    torch.manual_seed(1)
    conv = nn.Conv2d(4, 3, 3, padding=1)
    result, calls = {"weights": [], "regularisers": []}, []
    if world > 1:
        reduce = dist.all_reduce
        dist.all_reduce = lambda x: (calls.append(tuple(x.shape)), reduce(x))
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        z, x = torch.randn(BATCH, 4, 6, 6, generator=generator), torch.randn(BATCH, 3, 6, 6, generator=generator)
        x[0] *= 20  # the ranks' own gradients are far apart
        z, x = z.chunk(world)[rank], x.chunk(world)[rank]
        x_hat = conv(z).tanh()
        leaf = x_hat.detach().requires_grad_()
        losses = F.mse_loss(leaf, x), (leaf * x).mean(1).square().mean()
        gradients = [torch.autograd.grad(loss, leaf)[0] for loss in losses]
        result["weights"].append(adaptive_weight(x_hat, conv.weight, *gradients))
        real, fake = x.mean((2, 3)), z.mean((2, 3))
        result["regularisers"].append(lecam(real, fake))
        lecam.update(real, fake)
    result = {name: torch.stack(values) for name, values in result.items()}
    return {**result, "averages": torch.stack([lecam.real_mean, lecam.fake_mean]), "calls": calls}


def main(rank, folder):
    lecam = LeCam(0.5)  # before the process group exists, as Lightning does
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    torch.save(train(lecam, rank, WORLD), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], env=environment) for rank in range(WORLD)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0] * WORLD
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.fixture(scope="module")
def alone():
    return train(LeCam(0.5))


@pytest.mark.parametrize("name", ["weights", "averages"])
def test_ranks_are_equal_to_the_last_bit_and_as_one_process(ranks, alone, name):
    assert torch.equal(ranks[0][name], ranks[1][name])
    torch.testing.assert_close(ranks[0][name], alone[name], rtol=1e-5, atol=1e-6)


def test_the_ranks_regularisers_average_to_that_of_the_whole_batch(ranks, alone):
    own = torch.stack([rank["regularisers"] for rank in ranks])
    assert not torch.allclose(own[0], own[1])
    torch.testing.assert_close(own.mean(0), alone["regularisers"])


def test_each_step_sums_the_two_weight_gradients_at_once_and_the_two_means_at_once(ranks):
    assert ranks[0]["calls"] == [(2, 3, 4, 3, 3), (2,)] * STEPS


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), sys.argv[2])
