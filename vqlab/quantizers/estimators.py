"""Gradient estimators (straight-through, rotation) and the codebook and commitment losses."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(rows: Tensor) -> Tensor:
    """Normalise ``rows`` (N, D) to length 1; shorter than 1e-6 by 1e-6, so that the gradient at 0 is bounded."""
    return F.normalize(rows, dim=1, eps=1e-6)


def straight_through(z: Tensor, q: Tensor) -> Tensor:
    """Return ``q`` (N, D) with dq/dz = identity (Bengio et al. 2013, arXiv:1308.3432)."""
    return q + (z - z.detach())  # adds an exact zero, so the value is q to the last bit


def rotation_trick(z: Tensor, q: Tensor, eps: float = 1e-6) -> Tensor:
    """Return ``q`` (N, D) with dq/dz = (|q|/|z|) R, R the rotation that takes z/|z| to q/|q|, held constant.

    Fifty et al. 2024, arXiv:2410.06424, equation 4: with r = (z^ + q^) / |z^ + q^|, R = I - 2 r r^T + 2 q^ z^T. Where R
    does not exist (z = 0, or q = -z) the gradient is straight-through.
    """
    with torch.no_grad():
        z_norm, q_norm = z.norm(dim=1, keepdim=True), q.norm(dim=1, keepdim=True)
        z_unit, q_unit = F.normalize(z, dim=1), F.normalize(q, dim=1)
        r = z_unit + q_unit
        exists = (z_norm > eps) & (q_norm > eps) & (r.norm(dim=1, keepdim=True) > eps)
        r = F.normalize(r, dim=1)
        scale = q_norm / z_norm.clamp_min(eps)
    rotated = scale * (z - 2 * r * (r * z).sum(1, keepdim=True) + 2 * q_unit * (z_unit * z).sum(1, keepdim=True))
    return straight_through(torch.where(exists, rotated, z), q)


ESTIMATORS = {"ste": straight_through, "rotation": rotation_trick}


def finite_rows(rows: Tensor) -> Tensor:
    """Return which of the ``rows`` (N, D) are finite, (N, 1) bool: only these update a codebook."""
    return rows.sum(1, keepdim=True).isfinite()


def vq_loss(z: Tensor, codes: Tensor, weight: float, learnt: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Return weight * mean |z - sg(e)|^2, plus mean |sg(z) - e|^2 if codes are ``learnt``; and its terms.

    van den Oord et al. 2017, equation 3; ``z`` and ``codes`` are (N, D). The weight is that of the term that moves the
    encoder; widely copied code has it on the other. A row of ``z`` that is not finite makes the loss NaN, but not the
    gradient of ``codes``.
    """
    commitment = F.mse_loss(z, codes.detach())
    loss, terms = weight * commitment, {"commitment_loss": commitment.detach()}
    if learnt:
        codebook = F.mse_loss(codes, torch.where(finite_rows(z), z, codes).detach())
        loss, terms["codebook_loss"] = loss + codebook, codebook.detach()
    return loss, terms
