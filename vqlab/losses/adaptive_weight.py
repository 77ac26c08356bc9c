"""How strongly the discriminator pulls at the decoder, from the gradients at the decoder's last layer."""

import torch
from torch import Tensor

from vqlab.nn.distributed import all_sum, world_size


def adaptive_weight(
    x_hat: Tensor,
    last_weight: Tensor,
    rec_gradient: Tensor,
    adv_gradient: Tensor,
    max_weight: float = 1e4,
    eps: float = 1e-4,
) -> Tensor:
    """Return lambda = |grad_W L_rec| / (|grad_W L_adv| + eps), at most ``max_weight``.

    Esser et al. 2021, arXiv:2012.09841, equation 7, W the weight of the decoder's last layer. The paper's eps is 1e-6;
    1e-4 and the bound are those of its published code. That code goes back through the perceptual network and the
    discriminator once more for the two norms. Here the caller goes through them once, down to the reconstruction, and
    hands over what came out; from there to W autograd computes one layer.

    Args:
        x_hat: Reconstruction (B, C, H, W), attached to the decoder's graph, which stays for the backward pass to come.
        last_weight: W, any shape.
        rec_gradient: dL_rec / dx_hat (B, C, H, W), L_rec with the perceptual term.
        adv_gradient: dL_adv / dx_hat (B, C, H, W), of the generator's adversarial loss.
        max_weight: The largest value returned.
        eps: Keeps the quotient finite where the discriminator has no gradient.

    Returns:
        Float32 scalar without a graph. Under several ranks the weight gradients are averaged first (one collective), so
        every rank gets what one process would get from the whole batch, not its own value.

    Raises:
        RuntimeError: If ``x_hat`` does not depend on ``last_weight``, as with a detached reconstruction.

    Example:
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> x_hat = w * torch.ones(1, 1, 2, 2)
        >>> rec, adv = torch.full_like(x_hat, 0.75), torch.full_like(x_hat, -0.25)
        >>> round(adaptive_weight(x_hat, w, rec, adv, eps=0.5).item(), 6)
        2.0
    """
    gradients = [
        torch.autograd.grad(x_hat, last_weight, grad_outputs=gradient, retain_graph=True)[0].float()
        for gradient in (rec_gradient, adv_gradient)
    ]
    rec, adv = all_sum(torch.stack(gradients)) / world_size()
    return (rec.norm() / (adv.norm() + eps)).clamp(0, max_weight)
