"""What topic coherence costs, against gensim's CoherenceModel: the same figures of the same topics and texts.

    python benchmarks/coherence.py corpus.tsv --vocabulary vocabulary.txt

Any file that ``TextFile`` reads; topics are NMF's. vqlab reads the texts once for all measures of a window, gensim
for each; both take turns in one process, and figures are medians of CPU time.
"""

import argparse
import itertools
import statistics
import time

import numpy as np
from gensim.corpora import Dictionary
from gensim.models.coherencemodel import CoherenceModel
from quantizers import processor, table

from vqlab.data.text_file import TextFile
from vqlab.metrics.coherence import MEASURES
from vqlab.metrics.topics import top_word_ids
from vqlab.training.topic_start import nmf_topics

GENSIM = {"npmi": "c_npmi", "uci": "c_uci", "cv": "c_v", "umass": "u_mass"}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--vocabulary")
    parser.add_argument("--topics", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=GENSIM)
    options = parser.parse_args()
    data = TextFile(options.path, vocabulary_path=options.vocabulary, val_fraction=0.01)
    data.setup()
    topics = top_word_ids(nmf_topics(data.train_counts(), options.topics, 0))
    reference = data.reference
    ids, offsets, words = reference.ids, reference.offsets, data.vocabulary
    texts = [[words[i] for i in ids[start:end]] for start, end in itertools.pairwise(offsets)]
    dictionary = Dictionary([words])
    bags = [dictionary.doc2bow(text) for text in texts]

    def ours(measure: str) -> np.ndarray:
        formula, window = MEASURES[measure]
        return formula(reference.cooccurrence(topics, window))

    def gensims(measure: str) -> np.ndarray:
        model = CoherenceModel(
            topics=[[words[i] for i in topic] for topic in topics],
            texts=texts,
            corpus=bags,
            dictionary=dictionary,
            coherence=GENSIM[measure],
            processes=1,
            topn=topics.shape[1],
        )
        return np.array(model.get_coherence_per_topic())

    print(processor(), f"{len(texts)} documents, {len(words)} words, {options.topics} topics", flush=True)
    rows = []
    for measure in options.only or GENSIM:
        seconds: dict[str, list[float]] = {"ours": [], "gensim": []}
        found = {}
        for _ in range(options.repeats):
            for name, compute in (("ours", ours), ("gensim", gensims)):
                start = time.process_time()
                found[name] = compute(measure)
                seconds[name].append(time.process_time() - start)
        mine, theirs = (statistics.median(values) for values in seconds.values())
        difference = np.abs(found["ours"] - found["gensim"]).max()
        rows.append([measure, f"{mine:.3f}", f"{theirs:.2f}", f"{theirs / mine:.1f}", f"{difference:.0e}"])
    print(table(["", "vqlab, CPU s", "gensim, CPU s", "times as fast", "largest difference"], rows))


if __name__ == "__main__":
    main()
