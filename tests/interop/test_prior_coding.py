"""Range coding by a network: exact inverses at the network's likelihood, for any batch and any order of the sums."""

import numpy as np
import pytest
import torch
from torch import nn

from vqlab.interop.prior_coding import STEPS, WEIGHTS, as_float64, decode_by_network, encode_by_network, frequencies
from vqlab.nn import DepthTransformer, Transformer
from vqlab.samplers import generate, roll_out


def networks():
    """Return a network of each kind with probabilities that are far from equal."""
    torch.manual_seed(0)
    sizes = {"num_tokens": 40, "length": 12, "num_codebooks": 3, "dim": 32, "depth": 2, "heads": 2}
    found = [Transformer(**sizes), DepthTransformer(**sizes, depth_blocks=1)]
    for net in found:
        for weight in net.parameters():
            nn.init.normal_(weight, std=0.3)
        nn.init.normal_(net.head.weight)
    return found


def drawn(network, count):
    """Return codes (count, L) from ``network``, and their negative log-likelihood in bits."""
    label = torch.full((count,), network.no_label)
    tokens = generate(network.eval(), label, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        log_probs = as_float64(network)(tokens[:, :-1]).log_softmax(-1)
    return tokens.numpy(), -log_probs.gather(2, tokens[..., None]).sum().item() / np.log(2)


@pytest.mark.parametrize("network", networks(), ids=["long sequence", "depth transformer"])
def test_codes_are_restored_and_take_the_bits_of_their_likelihood(network):
    codes, bits = drawn(network, 600)
    assert bits < 0.8 * codes.size * np.log2(40)
    data = encode_by_network(codes, network.train())
    np.testing.assert_array_equal(decode_by_network(data, 600, network), codes)
    assert -32 <= 8 * len(data) - bits <= 64 + 1e-3 * bits


@pytest.mark.parametrize("count", [1, 255, 257])
def test_codes_of_any_number_of_samples_are_restored(count):
    (network, _) = networks()
    codes = np.random.default_rng(0).integers(40, size=(count, 12))  # improbable ones
    np.testing.assert_array_equal(decode_by_network(encode_by_network(codes, network), count, network), codes)


def logits_of(network, codes):
    """Return the logits (N, L, K) of codes (N, L), computed code by code."""
    tokens, found = torch.from_numpy(codes), []
    label = torch.full((len(codes),), network.no_label)
    roll_out(network, label, lambda i, logits: found.append(logits) or tokens[:, i])
    return torch.stack(found, 1)


@pytest.mark.parametrize("network", [as_float64(net) for net in networks()], ids=["long sequence", "depth transformer"])
def test_frequencies_do_not_depend_on_the_batch_and_on_the_order_of_the_sums(network):
    codes, _ = drawn(network, 200)
    logits = logits_of(network, codes)
    single = torch.cat([logits_of(network, row[None]) for row in codes[:20]])
    with torch.no_grad():
        full = network(torch.from_numpy(codes[:, :-1]))
    np.testing.assert_array_equal(frequencies(single), frequencies(logits[:20]))
    np.testing.assert_array_equal(frequencies(full), frequencies(logits))
    error = max((single - logits[:20]).abs().max(), (full - logits).abs().max()).item()
    from_rounding = ((STEPS * logits) % 1 - 0.5).abs().min().item() / STEPS
    assert error < 1e-12
    assert from_rounding > 100 * error


def test_frequencies_are_integers_close_to_the_probabilities():
    logits = torch.randn(50, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    found = frequencies(logits)
    assert (found == found.astype(np.int64)).all()
    assert found.min() > 0
    probs = logits.softmax(-1).numpy()
    loss = (probs * np.log2(probs / (found / found.sum(1, keepdims=True)))).sum(1)
    assert loss.max() < 1e-3


def test_table_of_weights_is_exact():
    np.testing.assert_array_equal(WEIGHTS, np.rint(np.exp(-np.arange(289) / 16) * 2**32))


def test_bytes_of_the_coder_are_those_of_the_first_version():
    class Steps(nn.Module):
        """A network whose logits are exact."""

        length, no_label = 4, 0

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(1, 1)

        def new_cache(self, batch):
            return None

        def forward(self, tokens, condition, cache):
            logits = torch.arange(8.0, dtype=torch.float64) / 4
            return logits.expand(len(tokens), 1, 8)

    codes = np.arange(24).reshape(6, 4) % 8
    assert encode_by_network(codes, Steps()).hex() == "6dc413038cdb8da0c255b20a"


def test_additional_bytes_are_refused():
    (network, _) = networks()
    codes, _ = drawn(network, 20)
    data = encode_by_network(codes, network)
    for wrong in (data + bytes(range(1, 41)), data[:-1]):
        with pytest.raises(ValueError, match=r"too many|buffer size"):
            decode_by_network(wrong, 20, network)
