"""Vectors and codebooks that tests compare and set."""


def as_set(rows):
    """Rows (N, D) as a sorted list of tuples: equal where they are the same rows in any order."""
    return sorted(map(tuple, rows.tolist()))


def set_codebook(quantizer, codes):
    """Put ``codes`` in place as if each had one vector."""
    quantizer.codebook.data.copy_(codes)
    if quantizer.codebook_update == "ema":
        quantizer.ema_sums.copy_(codes)
        quantizer.ema_counts.fill_(1)
