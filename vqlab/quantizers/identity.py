"""No codes at all: what the same networks reach without a quantizer."""

from torch import Tensor

from vqlab.errors import UserError
from vqlab.quantizers.base import Quantizer, QuantizerOutput


class IdentityQuantizer(Quantizer):
    """Pass features on as they are, under a single index: an autoencoder of real numbers, to compare with.

    Args:
        embedding_dim: Channels of the features, D.

    Shape:
        input and ``quantized`` (B, D, *spatial); ``indices`` (B, *spatial), all 0.

    Raises:
        UserError: If ``embedding_dim`` is below 1, or an index is to be decoded.

    Example:
        >>> import torch
        >>> z = torch.randn(2, 4, 10)
        >>> torch.equal(IdentityQuantizer(4)(z).quantized, z)
        True
    """

    num_embeddings = 1
    soft = True
    residual_gain = None

    def __init__(self, embedding_dim: int = 64) -> None:
        super().__init__()
        if embedding_dim < 1:
            raise UserError(
                f"embedding_dim must be at least 1, got {embedding_dim}: set --model.quantizer.embedding_dim"
            )
        self.embedding_dim = embedding_dim

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        """Return ``rows`` (N, D)."""
        return QuantizerOutput(rows, rows.new_zeros(len(rows)).long(), rows.new_zeros(()))

    def check_codes(self, indices: Tensor) -> None:
        """Refuse: there are no codes."""
        self.lookup(indices)

    def lookup(self, indices: Tensor) -> Tensor:
        """Refuse: there are no codes."""
        raise UserError("without a quantizer there are no codes to decode: set --model.quantizer=VectorQuantizer")
