"""Train a multi-scale VQ-VAE on digits, then a transformer over its scales, and draw digits by class."""

import lightning
import torch
from torchvision.utils import save_image

from vqlab import (
    VQVAE,
    Digits,
    MultiScaleQuantizer,
    NextScalePrior,
    Optimization,
    Schedule,
    SmallDecoder,
    SmallEncoder,
    VectorQuantizer,
)

lightning.seed_everything(0)
data = Digits(image_size=16, batch_size=64)
settings = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}

# First stage: 16 x 16 pixels to maps of 1 x 1, 2 x 2 and 4 x 4 codes of one codebook of 64.
tokenizer = VQVAE(
    encoder=SmallEncoder(in_channels=1, hidden_channels=32, res_channels=16),
    decoder=SmallDecoder(out_channels=1, hidden_channels=32, res_channels=16),
    quantizer=MultiScaleQuantizer(VectorQuantizer(num_embeddings=64, embedding_dim=16), scales=[1, 2, 4]),
    lr=2e-3,
    images=data.image_format,
)
lightning.Trainer(max_steps=300, **settings).fit(tokenizer, data)

# Second stage: p(codes of a scale | scales before it, class). The tokenizer is frozen.
prior = NextScalePrior(
    tokenizer,
    conditional=True,
    num_classes=10,
    dim=64,
    depth=2,
    heads=4,
    dropout=0.0,
    lr=2e-3,
    optimization=Optimization(schedule=Schedule("cosine", warmup_steps=20)),
)
trainer = lightning.Trainer(max_steps=300, gradient_clip_val=1.0, **settings)
trainer.fit(prior, data)

metrics = trainer.validate(prior, data, verbose=False)[0]
for name in ("bits_per_token", "unigram_bits", "bits_per_dim"):
    print(f"val/{name} = {metrics[f'val/{name}']:.3f}")

# One column per class, 21 codes in 3 passes.
labels = torch.arange(10).repeat(4)
generator = torch.Generator().manual_seed(0)
images = prior.eval().sample(40, label=labels, top_k=16, guidance=1.5, generator=generator)
save_image(prior.value_range.decode(images), "digits.png", nrow=10)
print("drew", tuple(images.shape), "as digits.png")
