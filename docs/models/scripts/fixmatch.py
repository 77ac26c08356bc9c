"""Train a classifier from 50 labels, with unlabelled images and without. A minute on one CPU core, no download."""

import lightning

from vqlab import EMA, ConvFeatures, Digits, FixMatch

# Digits of 8 x 8 pixels: 5 labelled images of each class, 1,387 images without label, 359 for the test.
STEPS = 600


def train(unlabelled_weight):
    """Train with or without the unlabelled images, and return the test accuracy."""
    lightning.seed_everything(0, verbose=False)
    data = Digits(
        image_size=8,
        batch_size=64,
        labels_per_class=5,
        val_size=1,
        test_size=359,
        augment=True,  # the weak augmentation: shifts
        strong_augment=True,  # adds strong_image: RandAugment and a grey square
    )
    model = FixMatch(
        network=ConvFeatures(image_size=8, channels=(32, 64), dropout=0),
        threshold=0.95,  # predictions that are more probable become labels
        unlabelled_weight=unlabelled_weight,  # 0 trains on the labelled images alone
        lr=1e-3,
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
    return trainer.test(model, data, verbose=False)[0]["test/acc"]


print(f"classifier on 50 labels: accuracy {train(unlabelled_weight=0.0):.3f}")
print(f"FixMatch on the same labels: accuracy {train(unlabelled_weight=1.0):.3f}")
