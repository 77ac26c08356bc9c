"""Cache of the last state of the Markov chain of each training example."""

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.distributed import all_gather_rows, all_sum, gather_interleaved, rank, world_size


class ChainCache:
    """The last state of the chain of each example, and the number of visits since it last changed.

    Rank r of R stores the rows of the examples r, r + R, r + 2R, ... Two small collectives per batch exchange them, so
    that R processes are equal to one. It is not an ``nn.Module``, because DDP would copy the rows of the first rank to
    all ranks. :meth:`whole` and :meth:`fill` are for checkpoints.

    Args:
        size: Number of training examples, N.
        positions: Codes per example, P.
        num_embeddings: Number of codes, K.

    Example:
        >>> cache = ChainCache(size=10, positions=3, num_embeddings=16)
        >>> cache.put(torch.tensor([7, 2]), torch.tensor([[1, 2, 3], [4, 5, 6]]), moved=torch.tensor([True, True]))
        >>> codes, known = cache.get(torch.tensor([2, 3]))
        >>> codes[0].tolist(), known.tolist()
        ([4, 5, 6], [True, False])
    """

    def __init__(self, size: int, positions: int, num_embeddings: int) -> None:
        self.size, self.positions = size, positions
        self.world, self.rank = world_size(), rank()
        rows, dtype = len(range(self.rank, size, self.world)), torch.int16 if num_embeddings <= 2**15 else torch.int32
        self.codes = torch.full((rows, positions), -1, dtype=dtype)
        self.age = torch.zeros(rows, dtype=torch.int32)

    def get(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states (B, P) int64 of the examples ``index`` (B,), and whether they are known, (B,) bool."""
        self._check(index)
        indices = all_gather_rows(index)
        own = indices % self.world == self.rank
        rows = torch.zeros(len(indices), self.positions, dtype=torch.int32, device=index.device)
        rows[own] = self.codes[indices[own] // self.world].int() + 1  # 0 if unknown
        codes = all_sum(rows)[self.rank * len(index) : (self.rank + 1) * len(index)].long() - 1
        return codes.clamp_min(0), codes[:, 0] >= 0

    def put(self, index: Tensor, codes: Tensor, moved: Tensor) -> None:
        """Store the states ``codes`` (B, P) of ``index`` (B,) and whether they ``moved`` (B,); of repeats the last."""
        self._check(index)
        indices, rows = all_gather_rows(index), all_gather_rows(torch.cat([codes, moved[:, None].long()], 1))
        own = indices % self.world == self.rank
        place, rows = indices[own] // self.world, rows[own]
        # The order of two writes to one place is undefined, so each place gets the row with the highest number.
        latest = torch.full((len(self.codes),), -1, device=index.device)
        latest = latest.scatter_reduce_(0, place, torch.arange(len(place), device=index.device), "amax")
        written = latest[place]
        self.codes[place] = rows[written, :-1].to(self.codes.dtype)
        self.age[place] = torch.where(rows[written, -1] > 0, 0, self.age[place] + 1).int()

    def ages(self, index: Tensor) -> Tensor:
        """Return the visits since the last move, (n,) int32, of the examples of ``index`` (B,) on this rank."""
        return self.age[index[index % self.world == self.rank] // self.world]

    def whole(self) -> dict[str, Tensor]:
        """Return the rows of all ranks in the order of the data; all ranks must call it."""
        return {name: gather_interleaved(rows, self.size) for name, rows in (("codes", self.codes), ("age", self.age))}

    def fill(self, stored: dict[str, Tensor]) -> None:
        """Set this rank's rows from the result of :meth:`whole`."""
        codes = stored["codes"]
        if codes.shape != (self.size, self.positions):
            found = f"{codes.shape[0]} examples with {codes.shape[1]} codes each, got {self.size} with {self.positions}"
            raise UserError(f"the checkpoint has chains of {found}: resume with its data and networks")
        self.codes.copy_(codes[self.rank :: self.world])
        self.age.copy_(stored["age"][self.rank :: self.world])

    def _check(self, index: Tensor) -> None:
        if int(index.max()) >= self.size:
            rule = f"index must be a position in the training set of {self.size} examples, got {int(index.max())}"
            raise UserError(f"{rule}: train_size must be the length of the whole training set")
        self.codes, self.age = self.codes.to(index.device), self.age.to(index.device)
