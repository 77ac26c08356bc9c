"""Documents that LDA generates, with known topics."""

import numpy as np
from scipy.sparse import csr_matrix

from vqlab.data.text.base import BagsOfWords, Corpus, TextDataModule


class Planted(TextDataModule):
    """Documents whose words are drawn from mixtures of known topics; the label is the dominant one."""

    def __init__(self, num_topics=10, vocab=400, num_documents=2000, length=80, batch_size=256, labels=True, **common):
        super().__init__(batch_size, **common)
        rng = np.random.default_rng(0)
        self.true = rng.dirichlet(np.full(vocab, 0.05), num_topics)
        theta = rng.dirichlet(np.full(num_topics, 0.1), num_documents)
        self.bow = np.stack([rng.multinomial(length, p) for p in theta @ self.true])
        self.dominant, self.labels = theta.argmax(1), labels

    def load_corpus(self):
        names = [f"topic {k}" for k in range(len(self.true))] if self.labels else []
        documents = BagsOfWords(csr_matrix(self.bow), self.dominant if self.labels else None)
        held_out = BagsOfWords(csr_matrix(self.bow[:256]), self.dominant[:256] if self.labels else None)
        words = [f"word{v}" for v in range(self.bow.shape[1])]
        return Corpus({"train": documents, "val": held_out, "test": held_out}, words, names)
