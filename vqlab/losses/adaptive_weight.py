"""The weight of the generator loss, from the gradients at the decoder's last layer."""

import torch
from torch import Tensor

from vqlab.nn.distributed import all_sum, world_size


def adaptive_weight(
    rec_loss: Tensor, adv_loss: Tensor, last_weight: Tensor, max_weight: float = 1e4, eps: float = 1e-4
) -> Tensor:
    """Return lambda = |grad_W L_rec| / (|grad_W L_adv| + eps), at most ``max_weight``, a scalar without a graph.

    Esser et al. 2021, arXiv:2012.09841, equation 7, W the weight of the decoder's last layer; eps and the bound are
    those of its published code. Under several ranks the gradients are averaged first (one collective), so every rank
    gets what one process would get from the whole batch. The losses are scalars and keep their graphs.

    Example:
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> x_hat = w * torch.ones(1, 1, 2, 2)
        >>> round(adaptive_weight(0.75 * x_hat.sum(), -0.25 * x_hat.sum(), w, eps=0.5).item(), 6)
        2.0
    """
    gradients = [torch.autograd.grad(loss, last_weight, retain_graph=True)[0].float() for loss in (rec_loss, adv_loss)]
    rec, adv = all_sum(torch.stack(gradients)) / world_size()
    return (rec.norm() / (adv.norm() + eps)).clamp(0, max_weight)


def linearized(loss: Tensor, x_hat: Tensor) -> Tensor:
    """Return the scalar ``loss`` as a linear function of ``x_hat``: same value and gradient, no graph between the two.

    Networks between a reconstruction and its losses, such as LPIPS and a discriminator, are passed back once, here,
    however often the result is differentiated; and their own weights get no gradient.
    """
    (gradient,) = torch.autograd.grad(loss, x_hat)
    return loss.detach() + ((x_hat - x_hat.detach()) * gradient).sum()
