"""Weight normalization: outputs after the initialization by data, and which scales are trained."""

import torch
from torch import nn

from tests.helpers.two_ranks import on_two_ranks
from vqlab.nn import ConvFeatures, MLPFeatures, SGANDiscriminator
from vqlab.nn.weight_norm import init_from_data, normalize_weights

LAYERS = nn.Linear | nn.Conv2d


def outputs(net, x):
    """Return the outputs of all linear and convolutional layers for ``x``."""
    found = []
    hooks = [
        part.register_forward_hook(lambda layer, inputs, output: found.append(output))
        for part in net.modules()
        if isinstance(part, LAYERS)
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    return found


def discriminator(net):
    return SGANDiscriminator(net, 10, head="logsumexp", weight_norm=True)


def test_initialized_layers_have_mean_0_and_deviation_1():
    nets = [ConvFeatures(3, 16, (8, 12), dropout=0, norm="none"), MLPFeatures(3, 16, (40, 30), 0.0, 0.0)]
    for net in nets:
        whole, x = discriminator(net), 3 + 2 * torch.randn(200, 3, 16, 16)
        init_from_data(whole, x)
        found = outputs(whole, x)
        assert len(found) == 3
        for output in found:
            channels = output.transpose(0, 1).flatten(1)
            torch.testing.assert_close(channels.mean(1), torch.zeros(len(channels)), atol=1e-4, rtol=0)
            torch.testing.assert_close(channels.std(1, correction=0), torch.ones(len(channels)), atol=1e-3, rtol=0)


def test_only_the_scales_of_the_class_head_are_trained():
    net = discriminator(MLPFeatures(1, 8, (16, 12)))
    before = [layer.weight.norm(dim=1) for layer in net.modules() if isinstance(layer, LAYERS)]
    optimizer = torch.optim.SGD([weight for weight in net.parameters() if weight.requires_grad], lr=0.1)
    net(torch.randn(20, 1, 8, 8)).logits.square().sum().backward()
    optimizer.step()
    after = [layer.weight.norm(dim=1) for layer in net.modules() if isinstance(layer, LAYERS)]
    for old, new in zip(before[:-1], after[:-1], strict=True):
        torch.testing.assert_close(new, old)
    assert (after[-1] - before[-1]).abs().min() > 1e-6


def initialized(rank):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    normalize_weights(net)
    x = torch.randn(40, 5)
    init_from_data(net, x[rank::2] if rank is not None else x)
    return [parameter.detach() for parameter in net.parameters()]


def test_two_ranks_initialize_as_one(tmp_path):
    one, other = on_two_ranks(initialized, tmp_path)
    for first, second, whole in zip(one, other, initialized(None), strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, whole)
