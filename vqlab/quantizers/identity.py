"""The identity in place of a quantizer: what the same networks reach without one."""

from torch import Tensor

from vqlab.errors import UserError
from vqlab.quantizers.base import Quantizer, QuantizerOutput
from vqlab.validation import Count


class IdentityQuantizer(Quantizer):
    """Return the features unchanged, with a single index, 0: a continuous autoencoder as a baseline.

    Args:
        embedding_dim: Channels of the features, D.

    Example:
        >>> import torch
        >>> z = torch.randn(2, 4, 10)
        >>> torch.equal(IdentityQuantizer(4)(z).quantized, z)
        True
    """

    num_embeddings = 1
    soft = True
    residual_gain = None

    def __init__(self, embedding_dim: Count = 64) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        return QuantizerOutput(rows, rows.new_zeros(len(rows)).long(), rows.new_zeros(()))

    def check_codes(self, indices: Tensor) -> None:
        self.lookup(indices)

    def lookup(self, indices: Tensor) -> Tensor:
        raise UserError("an IdentityQuantizer has no codes to decode: set quantizer=VectorQuantizer")
