"""CPU time of topic coherence, compared with gensim's CoherenceModel: equal values for the same topics and texts.

    python benchmarks/coherence.py corpus.tsv --vocabulary vocabulary.txt

Any file that ``TextFile`` reads; the topics are those of NMF. vqlab reads the texts once for all measures of a window,
gensim once per measure. Both take turns in one process; the values are medians of CPU time.
"""

import argparse
import itertools
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
from gensim.corpora import Dictionary
from gensim.models.coherencemodel import CoherenceModel
from measuring import CPU, stopwatch
from ratios import Ratio, medians, processor, table

from vqlab.data.text.base import TextDataModule
from vqlab.data.text.docstrings import Docstrings
from vqlab.data.text.file import TextFile
from vqlab.metrics.topics.coherence import MEASURES
from vqlab.metrics.topics.words import top_word_ids
from vqlab.models.topic.topics import nmf_topics

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
    print(processor(), f"{data.train_size} documents, {data.vocab_size} words, {options.topics} topics", flush=True)
    rows = [
        [measure, f"{ours:.3f}", f"{theirs:.2f}", f"{theirs / ours:.1f}", f"{difference:.0e}"]
        for measure, ours, theirs, difference in race(data, options.topics, options.only or GENSIM, options.repeats)
    ]
    print(table(["", "vqlab, CPU s", "gensim, CPU s", "times as fast", "largest difference"], rows))


def ratios(quick: bool) -> list[Ratio]:
    """Return what gensim takes for the topics of docstrings, as multiples of ours."""
    data = Docstrings(val_fraction=0.01, test_fraction=0.0, **({"packages": ("skimage",)} if quick else {}))
    data.setup("fit")
    found = []
    for measure, ours, theirs, difference in race(data, 5 if quick else 50, GENSIM, 1 if quick else 3):
        if difference > 1e-9:
            raise ArithmeticError(f"{measure} differs from gensim's by {difference:g}")
        what = f"topic coherence, {GENSIM[measure]}, {data.train_size} documents"
        found.append(Ratio(what, "gensim", "time", theirs / ours))
    return found


def race(
    data: TextDataModule, num_topics: int, measures: Iterable[str], repeats: int
) -> Iterator[tuple[str, float, float, float]]:
    """Yield of each measure its name, the CPU seconds of vqlab and of gensim, and how far their figures differ."""
    topics = top_word_ids(nmf_topics(data.train_documents(), num_topics, 0))
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

    for measure in measures:
        difference = float(np.abs(ours(measure) - gensims(measure)).max())
        contestants = {"ours": partial(ours, measure), "gensim": partial(gensims, measure)}
        seconds = medians({name: partial(stopwatch, run, CPU) for name, run in contestants.items()}, repeats)
        yield measure, seconds["ours"], seconds["gensim"], difference


if __name__ == "__main__":
    main()
