r"""Topic models on one corpus with the same metrics: coherence, diversity, and clusters of held-out documents.

    python benchmarks/gan_topic.py corpus.tsv --vocabulary vocabulary.txt --topics 20 50 --seeds 3
    python benchmarks/gan_topic.py train_bow.npz --labels train_labels.txt --test test_bow.npz \
        --test-labels test_labels.txt --vocabulary vocab.txt --topics 50 --seeds 5
    python benchmarks/gan_topic.py corpus.tsv --vocabulary vocabulary.txt --speed

Any file that ``TextFile`` or, with ``--labels``, ``BagOfWords`` reads, with a test split. Coherence is that of the ten
most probable words in the training texts: NPMI and C_V over sliding windows, as in gensim, if the order of the words is
known, and NPMI over documents. Diversity is that of ten and of fifteen words. NMI and purity are those of the test
documents by dominant topic. ECRTM, ProdLDA and ETM are those of ``topmost``, with its settings (``uv pip install
topmost``). ``--speed`` compares the time of an epoch with BAT's published loop in plain PyTorch.
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import torch
from ratios import Ratio, medians, processor, table
from sgan import QUIET, Clock
from torch import Tensor, nn

from vqlab.data.text.bag_of_words import BagOfWords
from vqlab.data.text.base import TextDataModule
from vqlab.data.text.docstrings import Docstrings
from vqlab.data.text.file import TextFile
from vqlab.metrics.topics.clusters import TopicClusters
from vqlab.metrics.topics.words import top_word_ids, topic_diversity, topic_figures
from vqlab.models.topic.gan_topic import GANTopicModel
from vqlab.models.topic.topics import nmf_topics
from vqlab.training.learning_rate import Schedule
from vqlab.training.optimization import GANOptimization

COLUMNS = ("npmi", "cv", "npmi_doc", "topic_diversity", "diversity of 15", "nmi", "purity")
BAT: dict[str, Any] = {"generator": "mlp", "init": "random", "cycle_weight": 0.0, "lr": 1e-4}
NEIGHBOURS: dict[str, Any] = {  # the terms on neighbours, usage and divergence, and what goes with them
    "hidden_features": 200,
    "generator_lr": 1e-2,
    "cycle_weight": 0.03,
    "neighbour_weight": 0.1,
    "usage_weight": 0.2,
    "divergence_weight": 0.02,
    "dropout": 0.5,
    "word_dropout": 0.3,
}
START = 5  # batches before the clock runs: the first make Adam's moments
Result = tuple[Tensor, Tensor | None]  # topics (K, V), proportions of the test documents (N, K)


def main() -> None:
    """Run each contestant on each seed, print one table per number of topics."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--vocabulary")
    for name in ("--labels", "--test", "--test-labels"):
        parser.add_argument(name, help="file for BagOfWords")
    parser.add_argument("--topics", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000, help="batches of 256 of vqlab's")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = read_data(options)
    print(processor(), f"{data.train_size} documents, {data.vocab_size} words", flush=True)
    if options.speed:
        rows = [[f"vqlab, {ratio.what}", f"{ratio.value:.2f}"] for ratio in speed(data)] + [["plain loop", "1.00"]]
        print(table(["one epoch, batches of 256, five of the critic for one of the generator", "times as fast"], rows))
        return
    sharp = read_data(options, weighting="squared_idf", neighbours=20)
    contestants: dict[str, Callable[[int, int], Result]] = {
        "NMF": lambda k, seed: nmf(data, k, seed),
        "NMF, squared idf": lambda k, seed: nmf(data, k, seed, power=2),
        "LSA + k-means": lambda k, seed: k_means(data, k, seed),
        "LSA + k-means, squared idf": lambda k, seed: k_means(data, k, seed, power=2),
        "LDA": lambda k, seed: lda(data, k, seed),
        "ProdLDA": lambda k, seed: from_topmost("ProdLDA", data, k, seed),
        "ETM": lambda k, seed: from_topmost("ETM", data, k, seed, train_WE=True),
        "ECRTM": lambda k, seed: from_topmost("ECRTM", data, k, seed),
        "start": lambda k, seed: (nmf_topics(data.train_documents(), k, seed), None),
        "GANTopicModel": lambda k, seed: ours(sharp, k, seed, options.steps, **NEIGHBOURS),
        "random start": lambda k, seed: ours(
            sharp, k, seed, options.steps, **NEIGHBOURS | {"init": "random", "generator_lr": 1e-1}
        ),
        "former default": lambda k, seed: ours(data, k, seed, options.steps),
        **{
            f"contrast {kind}": lambda k, seed, kind=kind: ours(data, k, seed, options.steps, contrast=kind)  # type: ignore[misc]
            for kind in ("topic", "averaged", "label")
        },
        "BAT": lambda k, seed: ours(data, k, seed, options.steps, **BAT),
    }
    for part in [name for name in NEIGHBOURS if name.endswith(("weight", "dropout"))]:
        less = NEIGHBOURS | {part: 0.0}
        contestants[f"without {part}"] = lambda k, seed, less=less: ours(sharp, k, seed, options.steps, **less)  # type: ignore[misc]
    for k in options.topics:
        rows = []
        for name in options.only or contestants:
            runs = []
            for seed in range(options.seeds):
                start = time.process_time()
                topics, proportions = contestants[name](k, seed)
                seconds = time.process_time() - start
                figures = topic_figures(top_word_ids(topics), data.reference) | clusters(data, k, proportions)
                figures["diversity of 15"] = topic_diversity(top_word_ids(topics, 15))
                runs.append([figures.get(column, float("nan")) for column in COLUMNS] + [seconds])
                print(k, name, seed, *(f"{value:.4f}" for value in runs[-1]), flush=True)
            columns = list(zip(*runs, strict=True))
            cells = [f"{np.mean(c):.3f} ± {np.std(c):.3f}" for c in columns[:-1]]
            rows.append([name, *cells, f"{statistics.fmean(columns[-1]):.0f}"])
        print(f"\nK = {k}\n" + table(["", *COLUMNS, "CPU seconds"], rows), flush=True)


def read_data(options: argparse.Namespace, **settings: Any) -> TextDataModule:
    """Return the corpus."""
    settings |= {"vocabulary_path": options.vocabulary, "batch_size": 256, "val_fraction": 0.01}
    data: TextDataModule
    if options.labels:
        tests = {"test_path": options.test, "test_labels_path": options.test_labels}
        data = BagOfWords(options.path, labels_path=options.labels, **tests, **settings)
    else:
        data = TextFile(options.path, **settings)
    data.setup()
    return data


def clusters(data: TextDataModule, k: int, proportions: Tensor | None) -> dict[str, float]:
    """Return NMI and purity of the test documents."""
    if proportions is None:
        return {}
    metric = TopicClusters(k, data.num_classes)
    metric.update(proportions, data.load_test().labels)  # type: ignore[union-attr]
    return {name: float(value) for name, value in metric.compute().items()}


def ours(data: TextDataModule, k: int, seed: int, steps: int, **settings: Any) -> Result:
    """Train a GANTopicModel."""
    lightning.seed_everything(seed, verbose=False)
    data.seed = seed
    model = GANTopicModel(
        k,
        vocab_size=data.vocab_size,
        num_classes=data.num_classes,
        optimization=GANOptimization(schedule=Schedule("cosine")),
        **settings,
    )
    trainer = lightning.Trainer(max_steps=steps, max_epochs=-1, limit_val_batches=0, log_every_n_steps=10**6, **QUIET)
    trainer.fit(model, data)
    with torch.no_grad():
        proportions = [model.eval().transform(batch["bow"]) for batch in data.test_dataloader()]
    return model.topics(), torch.cat(proportions)


def tf_idf(data: TextDataModule, power: int) -> tuple[Any, Any]:
    """Return training and test documents as rows (1 + ln tf) idf^power of unit length."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.preprocessing import normalize

    transformer = TfidfTransformer(sublinear_tf=True, norm=None).fit(data.train_counts())
    parts = (transformer.transform(counts) for counts in (data.train_counts(), data.test_counts()))
    train, test = (normalize(part.multiply(transformer.idf_ ** (power - 1)).tocsr()) for part in parts)
    return train, test


def nmf(data: TextDataModule, k: int, seed: int, power: int = 1) -> Result:
    """Scikit-learn's NMF; the proportions are in words, as the components have any scale."""
    from sklearn.decomposition import NMF

    train, test = tf_idf(data, power)
    model = NMF(k, init="nndsvda", random_state=seed, max_iter=400).fit(train)
    scales = model.components_.sum(1)
    return torch.from_numpy(model.components_), torch.from_numpy(model.transform(test) * scales)


def k_means(data: TextDataModule, k: int, seed: int, power: int = 1, dim: int = 30) -> Result:
    """k-means of the directions in the space of a truncated SVD; a topic is the mean of its documents."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    train, test = tf_idf(data, power)
    svd = TruncatedSVD(dim, random_state=seed).fit(train)
    model = KMeans(k, n_init=3, random_state=seed).fit(normalize(svd.transform(train)))
    members = np.eye(k)[model.labels_]
    return torch.from_numpy((train.T @ members).T), torch.eye(k)[model.predict(normalize(svd.transform(test)))]


def lda(data: TextDataModule, k: int, seed: int, iterations: int = 1000) -> Result:
    """Tomotopy's collapsed Gibbs sampler."""
    import tomotopy

    def words(counts: Any) -> list[list[str]]:
        rows = [np.repeat(row.indices, row.data.astype(int)) for row in (counts[i] for i in range(counts.shape[0]))]
        return [[str(word) for word in row] for row in rows]

    model = tomotopy.LDAModel(k=k, seed=seed + 1, alpha=1 / k, eta=0.01)
    for document in words(data.train_counts()):
        model.add_doc(document)
    model.train(iterations, workers=1)
    topics = torch.zeros(k, data.vocab_size)
    for topic in range(k):
        topics[topic, [int(word) for word in model.used_vocabs]] = torch.from_numpy(model.get_topic_word_dist(topic))
    documents = [model.make_doc(document) for document in words(data.test_counts())]
    return topics, torch.tensor(np.asarray(model.infer(documents, workers=1)[0]))


def from_topmost(name: str, data: TextDataModule, k: int, seed: int, **settings: Any) -> Result:
    """One of topmost's models, trained for 200 epochs as in its examples."""
    from topmost import models, trainers  # type: ignore[import-not-found]

    torch.manual_seed(seed)
    train, test = (torch.from_numpy(counts.toarray()) for counts in (data.train_counts(), data.test_counts()))  # type: ignore[union-attr]
    batches = torch.utils.data.DataLoader(train, 200, shuffle=True)
    corpus = SimpleNamespace(train_dataloader=batches, train_data=train, vocab=data.vocabulary)
    model = getattr(models, name)(data.vocab_size, k, **settings)
    trainer = trainers.BasicTrainer(model, corpus)
    trainer.train()
    return torch.from_numpy(trainer.get_beta()), torch.from_numpy(trainer.test(test))


def ratios(quick: bool) -> list[Ratio]:
    """Return the same as ``--speed``, of docstrings: as many as 20 Newsgroups' documents, with as few words or all."""
    found = []
    for max_vocab in [2000] if quick else [2000, None]:
        few: dict[str, Any] = {"packages": ("skimage",)} if quick else {}
        data = Docstrings(batch_size=256, val_fraction=0.01, test_fraction=0.0, max_vocab=max_vocab, **few)
        data.setup("fit")
        for ratio in speed(data, 1 if quick else 5):
            what = f"`GANTopicModel`, {ratio.what}, {data.train_size} documents, {data.vocab_size} words"
            found.append(replace(ratio, what=what))
    return found


def speed(data: TextDataModule, repeats: int = 5) -> list[Ratio]:
    """Return what a plain loop takes, as multiples of one epoch of vqlab's batches."""
    steps = data.train_size // 256
    variants = {
        "mixture": lambda: epoch(data, steps),
        "BAT's networks": lambda: epoch(data, steps, **BAT),
        "plain loop": lambda: plain_loop(data, steps),
    }
    seconds = medians(variants, repeats)
    plain = seconds.pop("plain loop")
    peer = "BAT's loop in plain PyTorch"
    reason = "Lightning's loop and the checks of a batch take the time that sparse products save"
    return [Ratio(name, peer, "time", plain / value, reason) for name, value in seconds.items()]


def epoch(data: TextDataModule, steps: int, **settings: Any) -> float:
    """Return the CPU seconds of ``steps`` batches without the start-up."""
    clock = Clock(START)
    model = GANTopicModel(20, vocab_size=data.vocab_size, **({"init": "random"} | settings))
    lightning.Trainer(
        max_steps=steps + START, max_epochs=-1, limit_val_batches=0, log_every_n_steps=50, callbacks=[clock], **QUIET
    ).fit(model, data)
    return clock.seconds


def plain_loop(data: TextDataModule, steps: int, k: int = 20, hidden: int = 100) -> float:
    """Return the CPU seconds of BAT as published: a dense matrix of documents, a batch drawn anew for each turn.

    As published PyTorch code does, the critic's turn has no gradient of the others.
    """
    counts = data.train_counts()
    weighted = counts.toarray() * data.idf.numpy()
    documents = weighted / weighted.sum(1, keepdims=True)
    size = data.vocab_size

    def network(inputs: int, outputs: int, *last: nn.Module) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, outputs), *last
        )

    generator, encoder = network(k, size, nn.Softmax(1)), network(size, k, nn.Softmax(1))
    critic = nn.Sequential(nn.Linear(size + k, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, 1))
    players = [torch.optim.Adam(part.parameters(), 1e-4, (0.5, 0.999)) for part in (generator, encoder, critic)]
    dirichlet = torch.distributions.Dirichlet(torch.full((k,), 1 / k))

    def pairs() -> tuple[Tensor, Tensor]:
        real = torch.tensor(documents[np.random.randint(0, len(documents), 256)], dtype=torch.float32)
        theta = dirichlet.sample((256,))
        return torch.cat([encoder(real), real], 1), torch.cat([theta, generator(theta)], 1)

    for step in range(1, steps + START + 1):
        if step == START + 1:
            start = time.process_time()
        with torch.no_grad():
            real, made = pairs()
        players[2].zero_grad()
        (critic(made).mean() - critic(real).mean()).backward()
        players[2].step()
        for weight in critic.parameters():
            weight.data.clamp_(-0.01, 0.01)
        if step % 5 == 0:
            real, made = pairs()
            for player in players[:2]:
                player.zero_grad()
            (critic(real).mean() - critic(made).mean()).backward()
            for player in players[:2]:
                player.step()
    return time.process_time() - start


if __name__ == "__main__":
    main()
