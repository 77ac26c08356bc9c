"""Where the Markov chain of each training example stands, kept from one visit to the next."""

import torch
import torch.distributed as dist
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.distributed import all_gather_rows, all_sum, world_size


class ChainCache:
    """The last state of each example's chain, and how many visits ago it last moved.

    Rank r of R owns the examples r, r + R, r + 2R, ... and no other rank holds or writes their rows, in whatever order
    the data come: a visit asks the owners, which costs two small collectives per batch. So each rank needs 1 / R of the
    memory, nothing goes stale, and R processes do what one does. Each row takes 2 bytes per code (4 above K = 32,768)
    and 4 for the age: 6.6 MB for 50,000 images of 8 x 8 codes, 661 MB for ImageNet's 1,281,167 of 16 x 16.

    No ``nn.Module``, for DDP would overwrite all ranks' rows by those of the first, and a model in use needs none;
    :meth:`whole` and :meth:`fill` carry them through a checkpoint, whatever the number of ranks then and now. They move
    to where the first batch is.

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
        """Return the states (B, P) int64 of the examples ``index`` (B,), and whether there is one, (B,) bool.

        Raises:
            UserError: If a position lies beyond the data.
        """
        self._check(index)
        everyone = all_gather_rows(index)
        mine = everyone % self.world == self.rank
        rows = torch.zeros(len(everyone), self.positions, dtype=torch.int32, device=index.device)
        rows[mine] = self.codes[everyone[mine] // self.world].int() + 1  # 0 is not known, and adds nothing to a sum
        codes = all_sum(rows)[self.rank * len(index) : (self.rank + 1) * len(index)].long() - 1
        known = codes[:, 0] >= 0
        return codes.clamp_min(0), known

    def put(self, index: Tensor, codes: Tensor, moved: Tensor) -> None:
        """Store the states ``codes`` (B, P) of ``index`` (B,); ``moved`` (B,) says which chains accepted a proposal.

        Of an example that comes twice, the state that stands last in the whole batch is kept.
        """
        self._check(index)
        everyone, rows = all_gather_rows(index), all_gather_rows(torch.cat([codes, moved[:, None].long()], 1))
        mine = everyone % self.world == self.rank
        place, rows = everyone[mine] // self.world, rows[mine]
        # Writing to one place twice has no defined order, so each place gets the row whose number is highest.
        latest = torch.full((len(self.codes),), -1, device=index.device)
        latest = latest.scatter_reduce_(0, place, torch.arange(len(place), device=index.device), "amax")
        written = latest[place]
        self.codes[place] = rows[written, :-1].to(self.codes.dtype)
        self.age[place] = torch.where(rows[written, -1] > 0, 0, self.age[place] + 1).int()

    def ages(self, index: Tensor) -> Tensor:
        """Return the visits since the last move, (n,) int32, of those of ``index`` (B,) that this rank owns."""
        return self.age[index[index % self.world == self.rank] // self.world]

    def whole(self) -> dict[str, Tensor]:
        """Return the rows of all ranks in the order of the data; every rank must call this."""
        return {"codes": self._gather(self.codes), "age": self._gather(self.age)}

    def fill(self, stored: dict[str, Tensor]) -> None:
        """Take the own rows out of what :meth:`whole` returned.

        Raises:
            UserError: If they are of other data, or of another map or number of codes.
        """
        codes = stored["codes"]
        if codes.shape != (self.size, self.positions):
            raise UserError(
                f"the checkpoint's chains are of {codes.shape[0]} examples with {codes.shape[1]} codes each, this run "
                f"has {self.size} with {self.positions}: resume with the data and networks of the checkpoint"
            )
        if int(codes.max()) >= self.num_embeddings:
            raise UserError(
                f"the checkpoint's chains use code {int(codes.max())}, this model has {self.num_embeddings} codes: set "
                "--model.num_embeddings to that of the checkpoint"
            )
        self.codes.copy_(codes[self.rank :: self.world])
        self.age.copy_(stored["age"][self.rank :: self.world])

    def _gather(self, rows: Tensor) -> Tensor:
        most = -(-self.size // self.world)  # of any rank: collectives want equal shapes
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        # As bytes, because gloo knows no int16.
        ranks = all_gather_rows(padded.contiguous().view(torch.uint8)).view(rows.dtype).unflatten(0, (self.world, most))
        return ranks.transpose(0, 1).flatten(0, 1)[: self.size].cpu()

    def _check(self, index: Tensor) -> None:
        if int(index.max()) >= self.size:
            raise UserError(
                f"the batch holds example {int(index.max())} of {self.size}: its index must be the position in the "
                "whole training set, and train_size the length of that"
            )
        self.codes, self.age = self.codes.to(index.device), self.age.to(index.device)
