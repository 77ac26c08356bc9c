"""Train a classifier from 100 labels, with a generator and without. A minute on one CPU core, no download."""

import lightning
import torch

from vqlab import EMA, SGAN, Digits, GANOptimization, MLPFeatures, MLPGenerator, Schedule

# Digits of 8 x 8 pixels: 10 labelled images of each class, 1,337 images without label, 359 for the test.
STEPS = 1200


def train(unlabelled_weight):
    """Train with or without the unlabelled and the generated images; return the test metrics and the model."""
    lightning.seed_everything(0, verbose=False)
    data = Digits(image_size=8, batch_size=100, labels_per_class=10, val_size=1, test_size=359, value_range="unit")
    model = SGAN(
        generator=MLPGenerator(image_size=8, latent_dim=50, hidden_features=(128, 128)),
        discriminator=MLPFeatures(image_size=8, hidden_features=(256, 256, 128)),
        head="logsumexp",  # K logits; their log-sum-exp is the logit of "real"
        objective="feature_matching",  # the generator matches the mean features of real images
        unlabelled_weight=unlabelled_weight,  # 0 trains the classifier alone
        weight_norm=True,
        consistency_weight=1.0,  # predictions with noise approach those without
        self_training_start=180,
        lr=3e-3,
        optimization=GANOptimization(disc_lr=1e-3, betas=(0.5, 0.9), schedule=Schedule("linear", final_factor=0.0)),
        images=data.image_format,
    )
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[EMA(0.99)],  # test with the averaged weights
    )
    trainer.fit(model, data)
    return trainer.test(model, data, verbose=False)[0], model


alone, _ = train(unlabelled_weight=0.0)
print(f"classifier on 100 labels: accuracy {alone['test/acc']:.3f}")

metrics, model = train(unlabelled_weight=4.0)
print(f"SGAN on the same labels: accuracy {metrics['test/acc']:.3f}")
for name in ("reals_passed", "fakes_caught", "diversity", "classes_drawn"):
    print(f"test/{name} = {metrics[f'test/{name}']:.3f}")

samples = model.eval().sample(16, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    probabilities = model.classify(samples)
print("16 generated digits, classified as", probabilities.argmax(1).tolist())
