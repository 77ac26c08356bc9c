"""Matching of found topics with true ones."""

from types import SimpleNamespace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def matched_topics(found: Tensor | np.ndarray, true: Tensor | np.ndarray) -> SimpleNamespace:
    """Assign found topics (K', V), K' >= K, to true ones (K, V) with the largest sum of cosine similarities.

    Returns ``index`` (K,), the found topic of each true one, all different, and ``cosine`` (K,), their similarities.
    """
    found, true = (torch.as_tensor(topics).detach().cpu().double() for topics in (found, true))
    unit_found, unit_true = (torch.nn.functional.normalize(topics, dim=1) for topics in (found, true))
    cosine = (unit_true @ unit_found.T).numpy()
    rows, index = linear_sum_assignment(cosine, maximize=True)
    return SimpleNamespace(index=index, cosine=cosine[rows, index])
