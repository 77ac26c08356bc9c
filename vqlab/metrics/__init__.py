"""torchmetrics over a whole epoch and all ranks."""
