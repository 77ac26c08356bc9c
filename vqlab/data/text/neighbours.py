"""Documents with similar words, found without labels."""

import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor

from vqlab.data.datamodule import Batch, Split, draws_of_batch

DIM = 30  # of the space in which documents are near; more include rare words
ROWS = 1000  # documents that are compared with all others at once


class WithNeighbours(Split):
    """Documents, and for each of a batch another one, ``neighbour``, drawn from its row of ``table`` (N, n)."""

    def __init__(self, data: Split, table: Tensor, seed: int = 0) -> None:
        self.data, self.table, self.seed = data, table, seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: list[int]) -> Batch:
        drawn = torch.randint(self.table.shape[1], (len(indices), 1), generator=draws_of_batch(self.seed, indices))
        near = self.table[torch.as_tensor(indices)].gather(1, drawn)[:, 0]
        return self.data.__getitems__(indices) | {"neighbour": self.data.__getitems__(near.tolist())["bow"]}


def nearest_documents(documents: csr_matrix, num: int, seed: int = 0) -> Tensor:
    """Return the positions (N, n) of the ``num`` nearest others of each document, or of all others if there are fewer.

    Near is the cosine in the space of a truncated SVD of ``documents`` (N, V), rows of unit length (latent semantic
    analysis, Deerwester et al. 1990).

    Example:
        >>> nearest_documents(csr_matrix([[1.0, 0, 0], [2, 1, 0], [0, 0, 1], [0, 1, 5]]), 1)[:, 0].tolist()
        [1, 0, 3, 2]
    """
    from sklearn.decomposition import TruncatedSVD  # takes a second to import

    dim = min(DIM, min(documents.shape) - 1)
    space = TruncatedSVD(dim, random_state=seed).fit_transform(documents)
    points = F.normalize(torch.from_numpy(space).float(), dim=1)
    num, found = min(num, len(points) - 1), []
    for rows in torch.arange(len(points)).split(ROWS):
        cosines = points[rows] @ points.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf
        found.append(cosines.topk(num, 1).indices)
    return torch.cat(found)
