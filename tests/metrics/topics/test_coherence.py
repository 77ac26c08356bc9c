"""Coherence against gensim on real text, C_P against its formula, and planted against shuffled topics."""

import ast
import itertools
import re
import secrets
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn
from gensim.corpora import Dictionary
from gensim.models.coherencemodel import CoherenceModel

from vqlab.metrics.topics.coherence import MEASURES, coherences, cp, cv, npmi, uci, umass
from vqlab.metrics.topics.cooccurrence import Cooccurrence, ReferenceCorpus

GENSIM = {"c_npmi": npmi, "c_uci": uci, "c_v": cv}


class Texts:
    """Lists of words in the formats of gensim and vqlab."""

    def __init__(self, documents, more_words=()):
        self.documents = documents
        self.words = sorted({word for document in documents for word in document} | set(more_words))
        number = {word: i for i, word in enumerate(self.words)}
        ids = np.array([number[word] for document in documents for word in document], np.int32)
        offsets = np.cumsum([0, *map(len, documents)])
        self.reference = ReferenceCorpus(ids, offsets, len(self.words))
        self.frequencies = np.bincount(ids, minlength=len(self.words))
        self.dictionary = Dictionary([self.words])

    def gensim(self, topics, measure, window=None):
        model = CoherenceModel(
            topics=[[self.words[i] for i in topic] for topic in topics],
            texts=self.documents,
            corpus=[self.dictionary.doc2bow(document) for document in self.documents],
            dictionary=self.dictionary,
            coherence=measure,
            window_size=window,
            processes=1,
            topn=len(topics[0]),
        )
        return np.array(model.get_coherence_per_topic())

    def draw_topics(self, rng, num_topics, n):
        p = self.frequencies / self.frequencies.sum()
        return np.stack([rng.choice(len(p), n, replace=False, p=p) for _ in range(num_topics)])


@pytest.fixture(scope="module")
def docstrings():
    """Docstrings of scikit-learn, some of them truncated to two words, and empty documents."""
    documents = []
    for path in sorted(Path(sklearn.__file__).parent.glob("[c-l]*/_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                words = re.findall(r"[a-z]{3,}", (ast.get_docstring(node) or "").lower())
                documents += [words[:400], words[:2], []] if len(documents) % 11 == 0 else [words]
    return Texts(documents[:350])


@pytest.mark.parametrize("measure", GENSIM)
@pytest.mark.parametrize("window", [None, 2, 25, 1000])
def test_windowed_measures_equal_gensim(docstrings, measure, window):
    usual = {"c_npmi": 10, "c_uci": 10, "c_v": 110}[measure]
    seed = secrets.randbelow(2**31)
    topics = docstrings.draw_topics(np.random.default_rng(seed), num_topics=4, n=10)
    counts = docstrings.reference.cooccurrence(topics, window or usual)
    expected = docstrings.gensim(topics, measure, window)
    np.testing.assert_allclose(GENSIM[measure](counts), expected, rtol=0, atol=1e-6, err_msg=str(seed))


@pytest.mark.parametrize("n", [2, 10, 25])
def test_all_measures_together_equal_gensim(docstrings, n):
    topics = docstrings.draw_topics(np.random.default_rng(0), num_topics=10, n=n)
    found = coherences(topics, docstrings.reference)
    assert found.keys() == MEASURES.keys()
    for name, measure in {"npmi": "c_npmi", "uci": "c_uci", "cv": "c_v", "umass": "u_mass"}.items():
        np.testing.assert_allclose(found[name], docstrings.gensim(topics, measure), rtol=0, atol=1e-6)
    # Windows longer than any document are documents.
    np.testing.assert_allclose(found["npmi_doc"], docstrings.gensim(topics, "c_npmi", window=10**6), rtol=0, atol=1e-6)


def test_words_that_never_occur_do_not_change_the_other_pairs(docstrings):
    """gensim returns infinity for them."""
    texts = Texts(docstrings.documents, more_words=["zzz", "zzzz"])
    unseen = [texts.words.index("zzz"), texts.words.index("zzzz")]
    seen = texts.draw_topics(np.random.default_rng(3), num_topics=3, n=6)
    for place in (0, 3, 5):
        mixed = np.insert(seen, place, unseen[0], axis=1)
        with warnings.catch_warnings(action="ignore"):
            assert np.isinf(texts.gensim(mixed, "c_npmi")).all()
        figures, alone = coherences(mixed, texts.reference), coherences(seen, texts.reference)
        for name in ("npmi", "uci", "npmi_doc"):
            np.testing.assert_allclose(figures[name] * 21, alone[name] * 15, err_msg=name)  # the pairs of 7 and of 6
        np.testing.assert_allclose(figures["umass"], texts.gensim(mixed, "u_mass"), rtol=0, atol=1e-6)
        assert all(np.isfinite(values).all() for values in figures.values())
    assert all(values.tolist() == [0.0] for values in coherences([unseen], texts.reference).values())


def test_cp_equals_its_formula(docstrings):
    topics = docstrings.draw_topics(np.random.default_rng(4), num_topics=5, n=6)
    counts = docstrings.reference.cooccurrence(topics, window=70)
    expected = []
    for joint in counts.joint:
        terms = []
        for j, i in itertools.combinations(range(6), 2):  # j precedes i
            given = joint[i, j] / joint[j, j]
            otherwise = (joint[i, i] - joint[i, j]) / (counts.total - joint[j, j])
            terms.append((given - otherwise) / (given + otherwise))
        expected.append(np.mean(terms))
    np.testing.assert_allclose(cp(counts), expected)


def test_limits_of_the_measures():
    always = Cooccurrence(10, np.full((1, 3, 3), 4.0))  # in the same 4 of 10 windows
    never = Cooccurrence(10, 3.0 * np.eye(3)[None])
    independent = Cooccurrence(100, np.array([[[50.0, 20.0], [20.0, 40.0]]]))
    assert [measure(always).item() for measure in (npmi, cv, cp, umass)] == pytest.approx([1, 1, 1, 0], abs=1e-9)
    assert [measure(independent).item() for measure in (npmi, uci, cp)] == pytest.approx([0, 0, 0], abs=1e-9)
    assert npmi(never).item() == pytest.approx(-1, abs=0.1)
    assert cp(never).item() == -1
    everywhere = Cooccurrence(10, np.full((1, 3, 3), 10.0))
    assert all(np.isfinite(measure(everywhere)).all() for measure in (npmi, uci, cv, cp, umass))


def test_planted_topics_are_more_coherent_than_shuffled_ones():
    rng = np.random.default_rng(5)
    num_topics, n = 8, 10
    planted = rng.permutation(num_topics * n).reshape(num_topics, n)
    theta = rng.dirichlet(np.full(num_topics, 0.1), 600)
    topic = (rng.random((600, 40, 1)) > theta.cumsum(1)[:, None, :-1]).sum(2)
    ids = planted[topic, rng.integers(n, size=topic.shape)].ravel()
    reference = ReferenceCorpus(ids, np.arange(601) * 40, num_topics * n)
    good, bad = (coherences(topics, reference) for topics in (planted, rng.permutation(planted.ravel()).reshape(8, 10)))
    for name in ("npmi", "npmi_doc", "cp"):
        assert good[name].min() > bad[name].max() + 0.2, name
    for name in ("cv", "uci", "umass"):
        assert good[name].min() > bad[name].max(), name
