"""Whether codes are distributed alike at all positions and in all classes: what a prior without context must know."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from vqlab.errors import UserError

MAX_COUNTS = 2**24  # 128 megabytes of int64, and as much in float64 while the figures are taken


class CodeStatistics(Metric):
    """Histograms of the codes by position and by class, and how far they lie apart.

    ``js_position`` is the generalised Jensen-Shannon divergence of the positions' distributions p_g in bits,
    JS = H(mean_g p_g) - mean_g H(p_g), each position weighted equally: 0 where all are equal, log2 P where no two share
    a code. ``js_class`` is the same for the classes.

    Finite histograms differ by chance alone. Let G of them hold n_g codes drawn independently from one distribution of
    which m codes are in use. To first order the entropy of a histogram of n codes falls short by (m - 1) / (2 n ln 2)
    bits (Miller 1955), and that of their mean by as much with n = G^2 / sum_g (1 / n_g), so that JS is expected to be

        chance = (m - 1) / (2 ln 2) (1 - 1 / G) mean_g (1 / n_g),

    given as ``chance_js_position`` and ``chance_js_class``. It is good to 15 % where each n_g is several times K, and
    no guide below that. Codes are not that independent within an image: where they tend to be equal, chance alone makes
    more than this figure among classes, and less among positions.

    ``top_k_overlap`` is the mean over all pairs of classes of the share that the two have in common of their ``top_k``
    most frequent codes; of equally frequent ones the smaller index comes first, and a code that a class never used is
    not among them. Positions and classes without any code are left out. Negative indices do not count.

    Args:
        num_embeddings: Number of codes, K.
        num_positions: Number of codes of an image, P.
        num_classes: Number of classes, C; 0 leaves out all figures of classes.
        top_k: How many of a class's codes are compared; more than K leaves out ``top_k_overlap``.

    Raises:
        UserError: If a size is out of range, there are more than 2^24 counts, or indices or labels have another shape.

    Example:
        >>> statistics = CodeStatistics(4, num_positions=2, num_classes=2, top_k=2)
        >>> statistics.update(torch.tensor([[0, 1], [0, 1], [0, 2]]), torch.tensor([0, 1, -1]))
        >>> {name: round(value.item(), 3) for name, value in statistics.compute().items() if "chance" not in name}
        {'js_position': 1.0, 'js_class': 0.0, 'top_k_overlap': 1.0}
    """

    full_state_update = False
    position_counts: Tensor
    class_counts: Tensor

    def __init__(self, num_embeddings: int, num_positions: int, num_classes: int = 0, top_k: int = 16) -> None:
        super().__init__()
        for name, size, least in (
            ("num_embeddings", num_embeddings, 1),
            ("num_positions", num_positions, 1),
            ("num_classes", num_classes, 0),
            ("top_k", top_k, 1),
        ):
            if size < least:
                raise UserError(f"{name} must be at least {least}, got {size}: give CodeStatistics another {name}")
        if (num_positions + num_classes) * num_embeddings > MAX_COUNTS:
            raise UserError(
                f"{num_positions} positions and {num_classes} classes of {num_embeddings} codes are too many to be "
                f"counted (at most {MAX_COUNTS} in all): set num_classes=0, or count fewer positions"
            )
        self.num_embeddings, self.num_positions = num_embeddings, num_positions
        self.num_classes, self.top_k = num_classes, top_k
        zeros = torch.zeros(num_positions, num_embeddings, dtype=torch.int64)
        self.add_state("position_counts", zeros, dist_reduce_fx="sum")
        if num_classes:
            zeros = torch.zeros(num_classes, num_embeddings, dtype=torch.int64)
            self.add_state("class_counts", zeros, dist_reduce_fx="sum")

    def update(self, indices: Tensor, label: Tensor) -> None:
        """Count ``indices`` (B, P) int64 in [0, K) of images with ``label`` (B,) int64 in [0, C), -1 where unknown."""
        if indices.ndim != 2 or indices.shape[1] != self.num_positions or label.shape != indices.shape[:1]:
            raise UserError(
                f"indices must be (B, {self.num_positions}) and label (B,), got {tuple(indices.shape)} and "
                f"{tuple(label.shape)}: give CodeStatistics another num_positions, or flatten the map of codes"
            )
        places = torch.arange(self.num_positions, device=indices.device)
        # Not in place: what `reset` makes inside Trainer.validate or test is a tensor that a later fit may not change.
        if self.num_classes:
            self.class_counts = self.class_counts + histograms(label[:, None], indices, self.class_counts)
        self.position_counts = self.position_counts + histograms(places, indices, self.position_counts)

    def compute(self) -> dict[str, Tensor]:
        """Return the figures by name, scalars in float32; 0 where fewer than two positions or classes have codes."""
        figures = {
            "js_position": divergence(self.position_counts),
            "chance_js_position": chance_divergence(self.position_counts),
        }
        if self.num_classes:
            figures["js_class"] = divergence(self.class_counts)
            figures["chance_js_class"] = chance_divergence(self.class_counts)
            if self.top_k <= self.num_embeddings:
                figures["top_k_overlap"] = top_k_overlap(self.class_counts, self.top_k)
        return {name: value.float() for name, value in figures.items()}


def histograms(group: Tensor, code: Tensor, like: Tensor) -> Tensor:
    """Count each ``code`` in its ``group``, both int64, of shapes that broadcast; what is negative does not count.

    Returns:
        Counts (G, K) int64, of the shape of ``like``.
    """
    counts = like.new_zeros(like.shape[0] + 1, like.shape[1] + 1)  # row and column 0 collect what does not count
    where = (group + 1).clamp_min(0), (code + 1).clamp_min(0)
    counts.index_put_(where, counts.new_ones(()), accumulate=True)  # bincount would wait for the GPU
    return counts[1:, 1:]


def divergence(counts: Tensor) -> Tensor:
    """Return the generalised Jensen-Shannon divergence of histograms (G, K) in bits; those that are empty are left out.

    Example:
        >>> divergence(torch.tensor([[3, 0], [0, 1], [0, 0]])).item()
        1.0
    """
    sizes = counts.sum(1, keepdim=True)
    # In float64, for the divergence is a small difference of large entropies.
    probs = counts.double() / sizes.clamp_min(1)
    weights = (sizes > 0).double() / (sizes > 0).sum().clamp_min(1)
    mean_entropy = (weights[:, 0] * _entropy(probs)).sum()
    return (_entropy((weights * probs).sum(0)) - mean_entropy).clamp_min(0)  # equal ones leave a difference of rounding


def chance_divergence(counts: Tensor) -> Tensor:
    """Return what :func:`divergence` is expected to be in bits if all codes came from one distribution, to first order.

    A histogram's share of code k deviates from p_k by d_k with variance p_k (1 - p_k) / n_g. To second order in d its
    entropy falls short by sum_k d_k^2 / (2 p_k ln 2), on average by (m - 1) / (2 n_g ln 2). The mean of G histograms
    deviates with variance p_k (1 - p_k) sum_g (1 / n_g) / G^2 and so falls short by 1 / G of what they do on average.
    The m codes in use are counted over all histograms: a single one misses rare codes, which yet add to the divergence.

    Example:
        >>> chance = chance_divergence(torch.tensor([[30, 10], [60, 20]])).item()
        >>> round(chance * 2 * math.log(2), 6)  # (1 - 1 / 2) (1 / 40 + 1 / 80) / 2
        0.009375
    """
    sizes = counts.sum(1)
    groups = (sizes > 0).sum().clamp_min(1)
    spread = torch.where(sizes > 0, 1 / sizes.double(), 0).sum() / groups
    degrees = ((counts.sum(0) > 0).sum() - 1).clamp_min(0)
    return degrees * spread * (1 - 1 / groups) / (2 * math.log(2))


def top_k_overlap(counts: Tensor, top_k: int) -> Tensor:
    """Return the mean share that two histograms of ``counts`` (G, K) have in common of their ``top_k`` largest codes.

    Example:
        >>> top_k_overlap(torch.tensor([[5, 4, 1], [5, 0, 6], [0, 9, 9]]), 2).item()  # {0, 1}, {0, 2}, {1, 2}
        0.5
    """
    order = counts.sort(dim=1, descending=True, stable=True)
    members = (order.values[:, :top_k] > 0).long()
    # A code among the largest of c histograms is shared by c (c - 1) ordered pairs: no G x G table is needed.
    sharing = counts.new_zeros(counts.shape[1]).scatter_add_(0, order.indices[:, :top_k].flatten(), members.flatten())
    groups = (counts.sum(1) > 0).sum()
    pairs = (groups * (groups - 1)).clamp_min(1)
    return (sharing * (sharing - 1)).sum() / (pairs * top_k)


def _entropy(probs: Tensor) -> Tensor:
    """Bits of the distributions in the last axis."""
    return -torch.special.xlogy(probs, probs).sum(-1) / math.log(2)
