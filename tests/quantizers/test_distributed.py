"""Two processes against one: the same codebook on both, and the one of a single process with the whole batch.

All cases share one pair of processes, for starting them costs seconds. They run this file as a script.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from vqlab.metrics.codebook import CodebookUsage
from vqlab.quantizers.vector import VectorQuantizer

WORLD, STEPS, ROWS, CODES, DIM = 2, 20, 128, 24, 6
CASES = {
    "ema": {"codebook_update": "ema"},
    "cosine": {"codebook_update": "ema", "distance": "cosine"},
    "loss": {"codebook_update": "loss"},
    "data": {"codebook_update": "ema", "init": "data", "estimator": "rotation"},
    "uniform": {"codebook_update": "ema", "init": "uniform"},
    "narrow": {"codebook_update": "ema", "embedding_dim": 1},
    "few": {"codebook_update": "ema", "num_embeddings": 500},
}
# float32 sums taken in two parts round otherwise than in one; nothing else differs.
TOLERANCE = 1e-6


def build():
    """The quantizers; called before the process group exists, as Lightning does."""
    common = {"num_embeddings": CODES, "embedding_dim": DIM, "revive_after": 2}
    return {name: VectorQuantizer(**{**common, **kwargs}) for name, kwargs in CASES.items()}


def batch(step, dim):
    """A batch whose clusters wander, so that codes die and are revived."""
    generator = torch.Generator().manual_seed(step)
    centers = 3 * torch.randn(5, dim, generator=torch.Generator().manual_seed(step // 4))
    return centers[torch.arange(ROWS) % 5] + 0.5 * torch.randn(ROWS, dim, generator=generator)


def deal(rows, rank, world, interleaved):
    return rows[rank::world] if interleaved else rows.chunk(world)[rank]


def train(quantizers, usages, rank=0, world=1, interleaved=False):
    """20 optimizer steps each; returns the states, the number of revivals and the usage metrics."""
    revived = dict.fromkeys(quantizers, 0)
    for name, quantizer in quantizers.items():
        quantizer.auto_update = False
        for step in range(STEPS):
            out = quantizer(deal(batch(step, quantizer.embedding_dim), rank, world, interleaved))
            if quantizer.codebook_update == "loss":
                (grad,) = torch.autograd.grad(out.loss, quantizer.codebook)
                if world > 1:
                    dist.all_reduce(grad)
                with torch.no_grad():
                    quantizer.codebook -= 5 * grad / world
            revived[name] += sum(rows.sum().item() for _, rows in quantizer.update(out.stats))
            usages[name].update(out.indices)
    states = {name: {k: v.clone() for k, v in q.state_dict().items()} for name, q in quantizers.items()}
    metrics = {name: {k: v.item() for k, v in usage.compute().items()} for name, usage in usages.items()}
    return {"states": states, "revived": revived, "metrics": metrics}


def metrics_of(quantizers):
    return {name: CodebookUsage(quantizer.num_embeddings) for name, quantizer in quantizers.items()}


def main(rank, folder):
    concatenated, interleaved, rounded = build(), build(), build()
    usages = [metrics_of(concatenated), metrics_of(interleaved)]
    usages.append(metrics_of(rounded))
    halves = CodebookUsage(8)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    result = {
        "concatenated": train(concatenated, usages[0], rank, WORLD),
        "interleaved": train(interleaved, usages[1], rank, WORLD, interleaved=True),
    }
    # A GPU adds in any order: here the second rank's sums come out otherwise in the last bits.
    exact = torch.Tensor.index_add
    torch.Tensor.index_add = lambda *args: exact(*args) * (1 + 3e-7 * rank)
    result["rounded"] = train(rounded, usages[2], rank, WORLD)
    torch.Tensor.index_add = exact
    halves.update(torch.arange(4) + 4 * rank)
    result["halves"] = {k: v.item() for k, v in halves.compute().items()}
    torch.save(result, f"{folder}/rank{rank}.pt")
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
        assert [process.wait(timeout=200) for process in processes] == [0] * WORLD
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.fixture(scope="module")
def single():
    quantizers = build()
    return train(quantizers, metrics_of(quantizers))


@pytest.mark.parametrize("dealing", ["concatenated", "interleaved", "rounded"])
@pytest.mark.parametrize("case", CASES)
def test_ranks_are_equal_to_the_last_bit(ranks, case, dealing):
    first, second = (rank[dealing]["states"][case] for rank in ranks)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert first["steps"] == STEPS


@pytest.mark.parametrize("dealing", ["concatenated", "interleaved"])
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process_with_the_whole_batch(ranks, single, case, dealing):
    assert single["revived"][case] > 5  # the case does exercise revival
    assert ranks[0][dealing]["revived"][case] == single["revived"][case]
    torch.testing.assert_close(
        ranks[0][dealing]["states"][case], single["states"][case], rtol=TOLERANCE, atol=TOLERANCE
    )


@pytest.mark.parametrize("dealing", ["concatenated", "interleaved"])
@pytest.mark.parametrize("case", CASES)
def test_usage_is_counted_over_ranks(ranks, single, case, dealing):
    for rank in ranks:
        assert rank[dealing]["metrics"][case] == pytest.approx(single["metrics"][case], rel=1e-6)


def test_ranks_with_different_halves_of_the_codes_use_all(ranks):
    for rank in ranks:
        assert rank["halves"] == pytest.approx({"perplexity": 8.0, "codebook_usage": 1.0})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), sys.argv[2])
