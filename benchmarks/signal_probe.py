"""Probe: do the codes of an S4DVQ keep what tells premature ventricular beats (PVC) from other beats?

    python benchmarks/signal_probe.py runs/s4dvq/NAME/checkpoints/best.ckpt mitbih.npz

The npz is the one that the checkpoint was trained on (``--data=Signals --data.array=x "--data.axes=n t"``), with
sample positions ``R_<record>`` of all beats and ``PVC_<record>`` of the premature ones. A window of the model's length
is centred on each beat, resampled and standardised as in training, and encoded; the features are those of its middle,
one beat. A logistic regression, and gradient-boosted trees on the samples and on the vectors of the codes, are fitted
to the training records of the checkpoint, their setting (C, leaves of a tree) is chosen on the validation records, and
they are tested on the test records, so no patient is in two splits. ``raw`` is no upper limit: a linear function of
samples transfers badly from patient to patient. The features before the codes are those of the checkpoint and of the
same network with new weights.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import yaml
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vqlab
from vqlab.data import Signals
from vqlab.serialization import from_config, to_config
from vqlab.training.checkpoint import read_checkpoint

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1)  # values of C
LEAVES = (4, 8, 16)  # of a tree
TREES = ("raw", "code vectors")  # features on which trees are fitted as well
BEAT = 0.64  # seconds before and after the R peak
FEWEST = 20  # PVC of a split, for an AUC that means anything

Split = tuple[np.ndarray, np.ndarray]  # features (N, size) and labels (N,)


def main() -> None:
    """Print the beats of each split and one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("npz")
    options = parser.parse_args()
    model: Any = vqlab.load(options.checkpoint)
    settings = yaml.safe_load(read_checkpoint(options.checkpoint)["config"])["data"]["init_args"]
    data = Signals(**{**settings, "path": options.npz})

    beats = {split: beats_of(data, split, options.npz) for split in ("train", "val", "test")}
    for split, (_, labels, records) in beats.items():
        counts = [f"{record}: {labels[records == record].sum()} of {sum(records == record)}" for record in set(records)]
        print(f"{split:5} PVC {labels.sum():4} of {len(labels):5} beats ({', '.join(sorted(counts))})")
        if labels.sum() < FEWEST:
            sys.exit(f"{split} has fewer than {FEWEST} PVC: train a checkpoint with another --data.seed")

    torch.manual_seed(0)
    untrained: Any = from_config(to_config(model)).eval()
    features = {
        split: features_of(model, untrained, windows, data.sample_rate) for split, (windows, *_) in beats.items()
    }
    _, labels, records = beats["test"]
    columns = [
        "features",
        "size",
        "classifier",
        "AUC",
        "average precision",
        *(f"AUC of {r}" for r in sorted({*records})),
    ]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for kind in features["train"]:
        splits = [(features[split][kind], beats[split][1]) for split in beats]
        for classifiers in (linear, trees) if kind in TREES else (linear,):
            name, scores = probe(dict(classifiers()), *splits)
            aucs = [roc_auc_score(labels[records == r], scores[records == r]) for r in sorted({*records})]
            values = [roc_auc_score(labels, scores), average_precision_score(labels, scores), *aucs]
            cells = [kind, str(splits[0][0].shape[1]), name, *(f"{value:.3f}" for value in values)]
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"chance: AUC 0.5, average precision {labels.mean():.3f}")


def beats_of(data: Signals, split: str, npz: str) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Return windows (N, 1, L) around the beats of a split, whether each is a PVC (N,), and its record (N,)."""
    windows, labels, records = [], [], []
    with np.load(npz) as arrays:
        for record, signal in zip(arrays["records"].tolist(), data.load_all().records, strict=True):
            if not any(signal is one for one in data.load_split(split).records):
                continue
            peaks = arrays[f"R_{record}"]
            starts = np.round(peaks * (data.sample_rate / float(arrays["fs"]))).astype(int) - data.length // 2
            inside = (starts >= 0) & (starts + data.length <= signal.shape[1])
            windows += [signal[:, start : start + data.length] for start in starts[inside]]
            labels.append(np.isin(peaks, arrays[f"PVC_{record}"])[inside])
            records += [record] * int(inside.sum())
    return data.collate()({"signal": torch.stack(windows)})["signal"], np.concatenate(labels), np.array(records)


@torch.no_grad()
def features_of(model: Any, untrained: Any, windows: torch.Tensor, rate: float) -> dict[str, np.ndarray]:
    """Return for each kind the features (N, size) of the beats in the middle of ``windows`` (N, 1, L)."""
    parts = [features_of_batch(model, untrained, batch, rate) for batch in windows.split(256)]
    return {kind: np.concatenate([part[kind] for part in parts]) for kind in parts[0]}


def features_of_batch(model: Any, untrained: Any, x: torch.Tensor, rate: float) -> dict[str, np.ndarray]:
    """Return samples, features and quantized vectors of the beats, and how often each codebook's codes occur."""
    step, codebooks = model.encoder.downsampling, model.quantizer.num_codebooks
    first, last = (round((model.length / 2 + side * BEAT * rate) / step) for side in (-1, 1))  # positions of codes
    codes = model.encode(x)
    samples, positions = slice(first * step, last * step), slice(first, last)
    chosen = codes.view(len(x), -1, codebooks)[:, positions].mT
    bag = torch.zeros(len(x), codebooks, model.quantizer.num_embeddings)
    bag.scatter_add_(2, chosen, torch.ones(chosen.shape))
    features = {
        "raw": x[..., samples],
        "encoder, new weights": untrained.to_code(untrained.encoder(x))[..., positions],
        "encoder, trained": model.to_code(model.encoder(x))[..., positions],
        "reconstruction": model.decode(codes)[..., samples],
        "code vectors": model.quantizer.decode(codes)[..., positions],
        "bag of codes": bag,
    }
    return {kind: values.flatten(1).numpy() for kind, values in features.items()}


def linear() -> Iterator[tuple[str, Any]]:
    """Yield logistic regressions, by name."""
    for strength in STRENGTHS:
        regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
        yield f"linear, C {strength:g}", make_pipeline(StandardScaler(), regression)


def trees() -> Iterator[tuple[str, Any]]:
    """Yield gradient-boosted trees, by name; early stopping would stop on beats of the training patients."""
    for leaves in LEAVES:
        options = {"max_leaf_nodes": leaves, "class_weight": "balanced", "early_stopping": False, "random_state": 0}
        yield f"trees of {leaves} leaves", HistGradientBoostingClassifier(**options)


def probe(classifiers: dict[str, Any], train: Split, val: Split, test: Split) -> tuple[str, np.ndarray]:
    """Return the classifier with the highest AUC in validation, and its scores (N,) of the test features."""
    fits = {name: classifier.fit(*train) for name, classifier in classifiers.items()}
    best = max(fits, key=lambda name: roc_auc_score(val[1], fits[name].decision_function(val[0])))
    return best, fits[best].decision_function(test[0])


if __name__ == "__main__":
    main()
