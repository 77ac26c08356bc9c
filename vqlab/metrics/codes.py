"""Codebook utilization, dependence of codes on image, position and class, and the baseline of a prior."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from vqlab.errors import UserError
from vqlab.validation import Checked, Count, NonNegativeInt

MAX_CODES = 2**26  # half a gigabyte of int64
MAX_COUNTS = 2**24  # largest histogram that models keep, 128 MiB of int64


class CodebookUsage(Metric):
    """Perplexity of the codes, and the fraction of codes that occur.

    perplexity = exp(-sum_k p_k ln p_k), where p_k is the frequency of code k among all indices since ``reset``, on all
    ranks. Of Q codebooks the perplexity is the mean, and the usage is the fraction of all codes.

    Example:
        >>> usage = CodebookUsage(8)
        >>> usage.update(torch.tensor([[0, 1], [2, 3]]))
        >>> {name: value.item() for name, value in usage.compute().items()}
        {'perplexity': 4.0, 'codebook_usage': 0.5}
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor

    def __init__(self, num_embeddings: int, num_codebooks: int = 1) -> None:
        super().__init__()
        if num_embeddings * num_codebooks > MAX_CODES:
            raise UserError(f"num_embeddings must be at most {MAX_CODES // num_codebooks}, got {num_embeddings}")
        self.num_embeddings, self.num_codebooks = num_embeddings, num_codebooks
        self.add_state("counts", torch.zeros(num_codebooks, num_embeddings, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, indices: Tensor) -> None:
        """Count ``indices`` (..., Q), or of any shape for one codebook, in [0, K); ignore negative ones."""
        place = (indices.reshape(-1, self.num_codebooks).T + 1).clamp_min(0)  # column 0 counts negative ones
        counts = place.new_zeros(self.num_codebooks, self.num_embeddings + 1)
        counts.scatter_add_(1, place, torch.ones_like(place))  # bincount synchronizes with the GPU
        # All metrics add out of place: `reset` in Trainer.validate makes inference tensors, which fit may not change.
        self.counts = self.counts + counts[:, 1:]

    def compute(self) -> dict[str, Tensor]:
        """Return ``perplexity`` in [1, K] and ``codebook_usage`` in [0, 1]."""
        probs = self.counts / self.counts.sum(1, keepdim=True).clamp_min(1)
        perplexity = torch.exp(-torch.special.xlogy(probs, probs).sum(1)).mean()
        return {"perplexity": perplexity, "codebook_usage": (self.counts > 0).float().mean()}


class ProposalEntropy(Metric):
    """Entropy of q at a position, and mutual information between image and code, both in nats per position.

    I(x; h) = H(mean over x of q(h | x)) - mean over x of H(q(h | x)), averaged over P positions. It is near 0 if q is
    nearly uniform, although the perplexity of sampled codes is then high.

    Example:
        >>> entropy = ProposalEntropy(positions=1, num_embeddings=2)
        >>> entropy.update(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).log())  # two images with different codes
        >>> {name: round(value.item(), 4) for name, value in entropy.compute().items()}
        {'site_entropy': 0.0, 'mutual_information': 0.6931}
    """

    full_state_update = False
    probs: Tensor
    entropy: Tensor
    count: Tensor

    def __init__(self, positions: int, num_embeddings: int) -> None:
        super().__init__()
        self.add_state("probs", torch.zeros(positions, num_embeddings), dist_reduce_fx="sum")
        self.add_state("entropy", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, log_q: Tensor) -> None:
        """Add log-probabilities (B, P, K)."""
        q = log_q.float().exp()
        self.probs = self.probs + q.sum(0)
        self.entropy = self.entropy + torch.special.entr(q).sum(2).mean(1).sum()
        self.count = self.count + len(q)

    def compute(self) -> dict[str, Tensor]:
        """Return ``site_entropy`` and ``mutual_information``, scalars."""
        count = self.count.clamp_min(1)
        mean, total = self.entropy / count, torch.special.entr(self.probs / count).sum(1).mean()
        return {"site_entropy": mean, "mutual_information": total - mean}


class CodeStatistics(Checked, Metric):
    """Histograms of the codes by position and by class, and their divergence.

    ``js_position`` is the generalised Jensen-Shannon divergence in bits of the distributions p_g of the positions,
    JS = H(mean_g p_g) - mean_g H(p_g): 0 if all are equal, log2 P if no two have a code in common. ``js_class`` is that
    of the classes. ``chance_js_...`` is the value by chance, see :func:`chance_divergence`; codes within an image are
    not independent, so that of the classes is too low. ``top_k_overlap`` is the fraction of their ``top_k`` most
    frequent codes that two classes have in common, averaged over all pairs; ties go to the smaller index. Negative
    indices, and positions and classes without codes, do not count.

    Args:
        num_embeddings: Number of codes, K.
        num_positions: Number of codes of an image, P.
        num_classes: Number of classes, C; 0 omits the metrics of classes.
        top_k: Number of codes of a class to compare; more than K omits ``top_k_overlap``.

    Example:
        >>> statistics = CodeStatistics(4, num_positions=2, num_classes=2, top_k=2)
        >>> statistics.update(torch.tensor([[0, 1], [0, 1], [0, 2]]), torch.tensor([0, 1, -1]))
        >>> {name: round(value.item(), 3) for name, value in statistics.compute().items() if "chance" not in name}
        {'js_position': 1.0, 'js_class': 0.0, 'top_k_overlap': 1.0}
    """

    full_state_update = False
    position_counts: Tensor
    class_counts: Tensor

    def __init__(
        self, num_embeddings: Count, num_positions: Count, num_classes: NonNegativeInt = 0, top_k: Count = 16
    ) -> None:
        super().__init__()
        self.num_embeddings, self.num_positions = num_embeddings, num_positions
        self.num_classes, self.top_k = num_classes, top_k
        self.groups = {"position": num_positions} | ({"class": num_classes} if num_classes else {})
        for name, number in self.groups.items():
            zeros = torch.zeros(number, num_embeddings, dtype=torch.int64)
            self.add_state(f"{name}_counts", zeros, dist_reduce_fx="sum")

    def update(self, indices: Tensor, label: Tensor) -> None:
        """Count ``indices`` (B, P) int64 in [0, K) of images with ``label`` (B,) int64 in [0, C), -1 if unknown."""
        if self.num_classes:
            self.class_counts = self.class_counts + histograms(label[:, None], indices, self.class_counts)
        places = torch.arange(self.num_positions, device=indices.device)
        self.position_counts = self.position_counts + histograms(places, indices, self.position_counts)

    def compute(self) -> dict[str, Tensor]:
        """Return float32 scalars by name; 0 if fewer than two positions or classes have codes."""
        values = {}
        for name in self.groups:
            values[f"js_{name}"] = divergence(getattr(self, f"{name}_counts"))
            values[f"chance_js_{name}"] = chance_divergence(getattr(self, f"{name}_counts"))
        if self.num_classes and self.top_k <= self.num_embeddings:
            values["top_k_overlap"] = top_k_overlap(self.class_counts, self.top_k)
        return {name: value.float() for name, value in values.items()}


def histograms(group: Tensor, code: Tensor, like: Tensor) -> Tensor:
    """Count each ``code`` in its ``group``, (G, K) as ``like``; both int64, broadcast; ignore negative ones."""
    counts = like.new_zeros(like.shape[0] + 1, like.shape[1] + 1)  # row and column 0 count negative ones
    where = (group + 1).clamp_min(0), (code + 1).clamp_min(0)
    counts.index_put_(where, counts.new_ones(()), accumulate=True)  # bincount synchronizes with the GPU
    return counts[1:, 1:]


def divergence(counts: Tensor) -> Tensor:
    """Return the generalised Jensen-Shannon divergence of the non-empty histograms (G, K) in bits."""
    sizes = counts.sum(1, keepdim=True)
    probs = counts.double() / sizes.clamp_min(1)  # float64, for a small difference of large entropies
    weights = (sizes > 0).double() / (sizes > 0).sum().clamp_min(1)
    entropies = [-torch.special.xlogy(p, p).sum(-1) / math.log(2) for p in (probs, (weights * probs).sum(0))]
    return (entropies[1] - (weights[:, 0] * entropies[0]).sum()).clamp_min(0)  # rounding


def chance_divergence(counts: Tensor) -> Tensor:
    """Return the expected :func:`divergence` in bits of histograms (G, K) of one distribution, to first order.

    chance = (m - 1) / (2 ln 2) (1 - 1 / G) mean_g (1 / n_g) for G histograms of n_g codes each, m of them in use: the
    entropy of n codes is too low by (m - 1) / (2 n ln 2) bits on average (Miller 1955). Accurate to 15 % if each n_g
    is several times K, and meaningless below that.
    """
    sizes = counts.sum(1)
    groups = (sizes > 0).sum().clamp_min(1)
    spread = torch.where(sizes > 0, 1 / sizes.double(), 0).sum() / groups
    degrees = ((counts.sum(0) > 0).sum() - 1).clamp_min(0)
    return degrees * spread * (1 - 1 / groups) / (2 * math.log(2))


def pairwise_divergence(counts: Tensor) -> Tensor:
    """Return :func:`divergence` in bits of each pair of histograms (G, K) as a matrix (G, G); NaN for empty ones."""
    probs = counts.double() / counts.sum(1, keepdim=True)
    entropy = torch.special.entr(probs).sum(1)
    mixed = torch.stack([torch.special.entr((row + probs) / 2).sum(1) for row in probs])
    return ((mixed - (entropy[:, None] + entropy) / 2) / math.log(2)).clamp_min(0)


def pairwise_overlap(counts: Tensor, top_k: int) -> Tensor:
    """Return the fraction of ``top_k`` largest codes that each two histograms of ``counts`` (G, K) have in common.

    Ties go to the smaller index; codes that do not occur do not count.
    """
    order = counts.sort(dim=1, descending=True, stable=True)
    members = counts.new_zeros(counts.shape, dtype=torch.float64)
    members.scatter_(1, order.indices[:, :top_k], (order.values[:, :top_k] > 0).double())
    return members @ members.T / top_k


def top_k_overlap(counts: Tensor, top_k: int) -> Tensor:
    """Return the mean of :func:`pairwise_overlap` over the pairs of non-empty histograms of ``counts`` (G, K)."""
    overlap = pairwise_overlap(counts, top_k)
    groups = (counts.sum(1) > 0).sum()
    return (overlap.sum() - overlap.trace()) / (groups * (groups - 1)).clamp_min(1)


def unigram_bits(counts: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean bits per token (B, L) under (count + 1) / (n + K), given ``counts`` (L, K) with row sums n."""
    count = counts.gather(1, tokens.T).double()
    return -((count + 1) / (counts.sum(1, keepdim=True) + counts.shape[1])).log2().mean().float()
