"""Losses of a topic model on the proportions of documents and on the topics."""

from torch import Tensor

from vqlab.nn.distributed import mean_over_ranks
from vqlab.nn.precision import upcast

TINY = 1e-9  # so that the logarithm of 0 is finite


def neighbour_loss(theta: Tensor, neighbours: Tensor) -> Tensor:
    """Return -E ln <theta_i, theta'_i>, in nats, of proportions (B, K) and those of similar documents (B, K).

    It is 0 if both are one and the same topic (Van Gansbeke et al. 2020, arXiv:2005.12320, equation 2, first term).

    Example:
        >>> import torch
        >>> round(neighbour_loss(torch.eye(2), torch.tensor([[1.0, 0.0], [0.5, 0.5]])).item(), 4)  # ln(2) / 2
        0.3466
    """
    return -((upcast(theta) * upcast(neighbours)).sum(1) + TINY).log().mean()


def usage_entropy(theta: Tensor) -> Tensor:
    """Return the entropy of the mean of proportions (B, K) over all ranks, in nats: ln K if all topics are used alike.

    The second term of the same equation.

    Example:
        >>> import torch
        >>> round(usage_entropy(torch.eye(3)).item(), 4)  # ln 3
        1.0986
    """
    usage = mean_over_ranks(upcast(theta).mean(0))
    return -(usage * (usage + TINY).log()).sum()


def topic_divergence(log_topics: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of topics, from their ln p(word | topic) (K, V), in nats.

    It is 0 if all are the same, and ln K if all words differ (Lin 1991, equation 5.1, with equal weights).

    Example:
        >>> import torch
        >>> round(topic_divergence(torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]).clamp(min=1e-9).log()).item(), 4)
        0.6931
    """
    log_topics = upcast(log_topics)
    topics = log_topics.exp()
    return (topics * (log_topics - (topics.mean(0) + TINY).log())).sum(1).mean()
