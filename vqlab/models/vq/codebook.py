"""What a model does with its codebook between optimizer steps: statistics, revival, and its use in the log."""

from typing import Any

import torch
from torch import Tensor, nn

from vqlab.metrics.codes.usage import CodebookUsage
from vqlab.quantizers.base import CodeStats, Quantizer, QuantizerOutput
from vqlab.training.learning_rate import reset_moments


class CodebookUpdates(nn.Module):
    """Statistics of the codes: committed once per optimizer step, whatever was accumulated, and counted for the log.

    Args:
        quantizer: The quantizer; from now on it waits for :meth:`commit`.
    """

    revived: Tensor  # codes revived since the last line of the log

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        quantizer.auto_update = False
        self.stats: CodeStats | None = None
        self.train_usage = CodebookUsage(quantizer.num_embeddings, quantizer.num_codebooks)
        self.train_usage.persistent(True)  # a resumed run continues the window that the checkpoint interrupted
        self.register_buffer("revived", torch.zeros((), dtype=torch.int64))

    def collect(self, code: QuantizerOutput) -> None:
        """Keep a batch's statistics until the optimizer steps, and count its codes for the log."""
        if code.stats is not None:
            self.stats = code.stats if self.stats is None else self.stats + code.stats
        self.train_usage.update(code.indices)

    def commit(self, quantizer: Quantizer, optimizer: Any) -> None:
        """Update the codebook by the statistics since the last step; revived codes lose their optimizer state."""
        if self.stats is not None:
            for codebook, rows in quantizer.update(self.stats):
                reset_moments(getattr(optimizer, "optimizer", optimizer), codebook, rows)
                self.revived += rows.sum()
            self.stats = None

    def metrics(self) -> dict[str, Tensor]:
        """Return perplexity, utilization and revivals of all batches since the last call."""
        usage = self.train_usage.compute()
        found = {name: usage[name] for name in ("perplexity", "codebook_usage")}
        found["revived_codes"] = self.revived.float()
        self.train_usage.reset()
        self.revived.zero_()
        return found
