"""Find topics in the docstrings of installed packages, and compare with NMF. About a minute on one CPU core.

The documents depend on the installed versions of the packages.
"""

import lightning
import numpy as np
from sklearn.decomposition import NMF
from sklearn.feature_extraction.text import TfidfTransformer

from vqlab import Docstrings, GANTopicModel, topic_figures

lightning.seed_everything(0)
data = Docstrings(packages=("torch.nn", "sklearn", "matplotlib", "scipy.stats"), batch_size=256)
print(f"{data.train_size} documents, {data.vocab_size} words, labels: {', '.join(data.class_names)}")

model = GANTopicModel(
    num_topics=10,
    init="nmf",  # the topics start from those of NMF on the training documents
    cycle_weight=0.03,  # documents are to be likely under their inferred topics
    n_critic=5,  # critic updates for each of generator and encoder
    lr=3e-3,
    vocab_size=data.vocab_size,
    num_classes=data.num_classes,
)

trainer = lightning.Trainer(
    max_steps=400,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, data)

metrics = trainer.validate(model, data, verbose=False)[0]
for name in ("npmi", "topic_diversity", "nmi", "purity"):
    print(f"val/{name} = {metrics[f'val/{name}']:.3f}")
for number, words in enumerate(model.top_words(6)):
    print(f"topic {number}: {' '.join(words)}")

# The same measures of NMF alone, on tf-idf: the training starts from these topics.
tfidf = TfidfTransformer().fit_transform(data.train_counts())
nmf = NMF(10, init="nndsvda", random_state=0, max_iter=200).fit(tfidf)
figures = topic_figures(np.argsort(-nmf.components_)[:, :10], data.reference)
print(f"NMF alone: npmi {figures['npmi']:.3f}, topic_diversity {figures['topic_diversity']:.3f}")

# The encoder gives the topic proportions of new documents.
bow = next(iter(data.val_dataloader()))["bow"][:1]
proportions = model.eval().transform(bow)[0]
print("a held-out document is mostly about topic", proportions.argmax().item(), f"({proportions.max().item():.0%})")
