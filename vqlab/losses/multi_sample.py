"""Objectives of latent-variable models from S samples of q(h | x).

``log_p`` = ln p(x, h_s) and ``log_q`` = ln q(h_s | x) are (B, S); w = p / q. The losses are surrogates: their gradients
are the estimators, their values have no meaning.
"""

import torch
from torch import Tensor


def rloo_loss(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Score-function surrogate of the ELBO with leave-one-out baselines (Kool et al. 2019), a scalar.

    grad = mean_s [grad ln p_s + (ln w_s - mean of the other ln w) grad ln q_s].
    """
    log_w, num = (log_p - log_q).detach(), log_p.shape[1]
    signal = (log_w - log_w.mean(1, keepdim=True)) * num / (num - 1)  # the difference from the mean of the others
    return -(log_p + signal * log_q).mean(1).mean()


def vimco_loss(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Surrogate of the tighter bound ln mean_s w_s (VIMCO, Mnih and Rezende 2016, arXiv:1602.06725), a scalar.

    The baseline of a sample is the bound with its ln w replaced by the mean of the others (equations 7 and 8). With
    normalised weights v_s, grad = sum_s [v_s grad ln w_s + (bound - baseline_s) grad ln q_s].
    """
    log_w, num = (log_p - log_q).detach(), log_p.shape[1]
    others = (log_w.sum(1, keepdim=True) - log_w) / (num - 1)
    replaced = torch.where(torch.eye(num, dtype=torch.bool, device=log_w.device), others[:, :, None], log_w[:, None])
    signal = log_w.logsumexp(1, keepdim=True) - replaced.logsumexp(2)  # -ln S cancels
    v = log_w.softmax(1)
    return -(v * (log_p - log_q) + signal * log_q).sum(1).mean()
