"""Train a classifier from 50 labels, with a generator and without. A minute on one CPU core, no download."""

import lightning
import torch

from vqlab import SGAN, Digits, GANOptimization, MLPFeatures, MLPGenerator, Schedule

# Digits of 8 x 8 pixels: 5 labelled images of each class, about 1,400 images without label.
STEPS = 1500


def train(unlabelled_weight):
    """Train with or without the unlabelled and the generated images; return the test metrics and the model."""
    lightning.seed_everything(0, verbose=False)
    data = Digits(image_size=8, batch_size=64, labels_per_class=5)
    model = SGAN(
        generator=MLPGenerator(image_size=8, latent_dim=50, hidden_features=[128, 128]),
        discriminator=MLPFeatures(image_size=8, hidden_features=[256, 128, 64], input_noise=0.3, noise=0.5),
        head="logsumexp",  # K logits; their log-sum-exp is the logit of "real"
        objective="feature_matching",  # the generator matches the mean features of real images
        unlabelled_weight=unlabelled_weight,  # 0 trains the classifier alone
        lr=1e-3,
        optimization=GANOptimization(betas=(0.5, 0.999), schedule=Schedule("linear", final_factor=0.0)),
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
    )
    trainer.fit(model, data)
    return trainer.test(model, data, verbose=False)[0], model


alone, _ = train(unlabelled_weight=0.0)
print(f"classifier on 50 labels: accuracy {alone['test/acc']:.3f}")

metrics, model = train(unlabelled_weight=1.0)
print(f"SGAN on the same labels: accuracy {metrics['test/acc']:.3f}")
for name in ("reals_passed", "fakes_caught", "diversity", "classes_drawn"):
    print(f"test/{name} = {metrics[f'test/{name}']:.3f}")

samples = model.eval().sample(16, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    probabilities = model.classify(samples)
print("16 generated digits, classified as", probabilities.argmax(1).tolist())
