"""The last state of the Markov chain of each training example."""

import torch
import torch.distributed as dist
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.distributed import all_gather_rows, all_sum, world_size


class ChainCache:
    """The last state of each example's chain, and the number of visits since it last moved.

    Rank r of R owns the examples r, r + R, r + 2R, ...; no other rank stores or writes their rows. A visit asks the
    owners, by two small collectives per batch, so that R processes are equal to one. A row takes 2 bytes per code (4
    above K = 32,768) and 4 for the age. Not an ``nn.Module``, because DDP would overwrite the rows of all ranks by
    those of the first. :meth:`whole` and :meth:`fill` are for checkpoints, which another number of ranks can load.

    Args:
        size: Training examples, N.
        positions: Codes per example, P.
        num_embeddings: Categories of a code, K.

    Example:
        >>> cache = ChainCache(size=10, positions=3, num_embeddings=16)
        >>> cache.put(torch.tensor([7, 2]), torch.tensor([[1, 2, 3], [4, 5, 6]]), moved=torch.tensor([True, True]))
        >>> codes, known = cache.get(torch.tensor([2, 3]))
        >>> codes[0].tolist(), known.tolist()
        ([4, 5, 6], [True, False])
    """

    def __init__(self, size: int, positions: int, num_embeddings: int) -> None:
        self.size, self.positions, self.num_embeddings = size, positions, num_embeddings
        self.rank = dist.get_rank() if world_size() > 1 else 0
        self.world = world_size()
        rows = len(range(self.rank, size, self.world))
        dtype = torch.int16 if num_embeddings <= 2**15 else torch.int32
        self.codes = torch.full((rows, positions), -1, dtype=dtype)
        self.age = torch.zeros(rows, dtype=torch.int32)

    def get(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states (B, P) int64 of the examples ``index`` (B,), and whether they are known, (B,) bool."""
        self._check(index)
        everyone = all_gather_rows(index)
        mine = everyone % self.world == self.rank
        rows = torch.zeros(len(everyone), self.positions, dtype=torch.int32, device=index.device)
        rows[mine] = self.codes[everyone[mine] // self.world].int() + 1  # 0: not known, adds nothing to the sum
        codes = all_sum(rows)[self.rank * len(index) : (self.rank + 1) * len(index)].long() - 1
        known = codes[:, 0] >= 0
        return codes.clamp_min(0), known

    def put(self, index: Tensor, codes: Tensor, moved: Tensor) -> None:
        """Store the states ``codes`` (B, P) of ``index`` (B,), of repeated ones the last, and which ``moved`` (B,)."""
        self._check(index)
        everyone, rows = all_gather_rows(index), all_gather_rows(torch.cat([codes, moved[:, None].long()], 1))
        mine = everyone % self.world == self.rank
        place, rows = everyone[mine] // self.world, rows[mine]
        # Two writes to one place have no defined order, so each place gets the row with the highest number.
        latest = torch.full((len(self.codes),), -1, device=index.device)
        latest = latest.scatter_reduce_(0, place, torch.arange(len(place), device=index.device), "amax")
        written = latest[place]
        self.codes[place] = rows[written, :-1].to(self.codes.dtype)
        self.age[place] = torch.where(rows[written, -1] > 0, 0, self.age[place] + 1).int()

    def ages(self, index: Tensor) -> Tensor:
        """Return the visits since the last move, (n,) int32, of the examples of ``index`` (B,) that this rank owns."""
        return self.age[index[index % self.world == self.rank] // self.world]

    def whole(self) -> dict[str, Tensor]:
        """Return the rows of all ranks in the order of the data; call it on every rank."""
        return {"codes": self._gather(self.codes), "age": self._gather(self.age)}

    def fill(self, stored: dict[str, Tensor]) -> None:
        """Set this rank's rows from the result of :meth:`whole`."""
        codes = stored["codes"]
        if codes.shape != (self.size, self.positions):
            raise UserError(
                f"the checkpoint's chains have {codes.shape[0]} examples with {codes.shape[1]} codes each, this run "
                f"has {self.size} with {self.positions}: resume with the data and networks of the checkpoint"
            )
        if int(codes.max()) >= self.num_embeddings:
            raise UserError(
                f"num_embeddings must be that of the checkpoint, got {self.num_embeddings}, and its chains use code "
                f"{int(codes.max())}"
            )
        self.codes.copy_(codes[self.rank :: self.world])
        self.age.copy_(stored["age"][self.rank :: self.world])

    def _gather(self, rows: Tensor) -> Tensor:
        most = -(-self.size // self.world)  # of any rank: collectives need equal shapes
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        # As bytes, because gloo knows no int16.
        ranks = all_gather_rows(padded.contiguous().view(torch.uint8)).view(rows.dtype).unflatten(0, (self.world, most))
        return ranks.transpose(0, 1).flatten(0, 1)[: self.size].cpu()

    def _check(self, index: Tensor) -> None:
        if int(index.max()) >= self.size:
            raise UserError(
                f"index must be a position in the training set of {self.size} examples, got {int(index.max())}: "
                "train_size must be the length of the whole training set"
            )
        self.codes, self.age = self.codes.to(index.device), self.age.to(index.device)
