"""Weight normalization with an initialization by data (Salimans and Kingma 2016, arXiv:1602.07868)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from vqlab.nn.distributed import means_over_ranks
from vqlab.nn.precision import upcast


def normalize_weights(net: nn.Module, learn_scale: nn.Module | None = None) -> None:
    """Reparametrize each linear and convolutional layer of ``net`` as W = g v / |v|, with one g per output channel.

    The scales g are constant except those of the layer ``learn_scale``, as in Salimans et al. 2016 (arXiv:1606.03498).
    """
    for part in list(net.modules()):
        if isinstance(part, nn.Linear | nn.Conv2d):
            layer: Any = weight_norm(part)
            layer.parametrizations.weight.original0.requires_grad_(part is learn_scale)


@torch.no_grad()
def init_from_data(net: nn.Module, x: Tensor) -> None:
    """Set scales and biases of the normalized layers so that their outputs for ``x`` have mean 0 and deviation 1.

    The mean and the standard deviation are over the batch of all ranks (and the positions), per output channel; a layer
    gets the outputs of the layers before it after their own initialization (equation 5).

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> normalize_weights(net)
        >>> x = torch.randn(500, 3)
        >>> init_from_data(net, x)
        >>> y = net(x)
        >>> y.mean(0).abs().max().item() < 1e-5, abs(y.std(0) - 1).max().item() < 1e-2
        (True, True)
    """

    def rescale(layer: Any, inputs: Any, output: Tensor) -> Tensor:
        dtype, output = output.dtype, upcast(output)
        others = [dim for dim in range(output.ndim) if dim != 1]
        mean, square = means_over_ranks([output.mean(others), output.square().mean(others)])
        std = (square - mean.square()).clamp_min(1e-12).sqrt()
        scale = layer.parametrizations.weight.original0
        scale.div_(std.view(-1, *[1] * (scale.ndim - 1)))
        layer.bias.sub_(mean).div_(std)
        wide = [1, -1, *[1] * (output.ndim - 2)]
        return ((output - mean.view(wide)) / std.view(wide)).to(dtype)

    layers = [part for part in net.modules() if hasattr(part, "parametrizations")]
    hooks = [layer.register_forward_hook(rescale) for layer in layers]
    try:
        net(x)
    finally:
        for hook in hooks:
            hook.remove()
