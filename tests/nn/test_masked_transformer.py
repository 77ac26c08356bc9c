"""The bidirectional transformer: what its logits depend on."""

import pytest
import torch

from vqlab.nn import MaskedTransformer


@pytest.mark.parametrize("num_codebooks", [1, 3])
def test_logits_depend_on_all_tokens_that_are_not_masked(num_codebooks):
    torch.manual_seed(1)
    sizes = {"num_tokens": 5, "length": 6, "num_classes": 2, "num_codebooks": num_codebooks, "dim": 16, "depth": 2}
    net = MaskedTransformer(**sizes, heads=2).eval()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    tokens, label = torch.randint(5, (3, 6)), torch.tensor([0, 1, 2])
    masked = torch.tensor([False, True, False, True, True, False]).expand(3, 6)
    before = net(tokens, masked, label)
    assert before.shape == (3, 6, 5)
    for place in range(6):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % 5
        same = net(changed, masked, label).isclose(before).all(-1)
        assert same.all() if masked[0, place] else not same.any()
    assert not net(tokens, masked, label.flip(0)).isclose(before)[[0, 2]].all(-1).any()
