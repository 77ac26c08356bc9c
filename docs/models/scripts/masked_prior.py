"""Train a VQ-VAE on digits, then a masked transformer over its codes; draw digits, and the lower halves of digits."""

import lightning
import torch
from torchvision.utils import save_image

from vqlab import VQVAE, Digits, MaskedPrior, Optimization, Schedule, SmallDecoder, SmallEncoder, VectorQuantizer

lightning.seed_everything(0)
data = Digits(image_size=16, batch_size=64)
settings = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}

# First stage: 16 x 16 pixels to 4 x 4 codes of 64.
tokenizer = VQVAE(
    encoder=SmallEncoder(in_channels=1, hidden_channels=32, res_channels=16),
    decoder=SmallDecoder(out_channels=1, hidden_channels=32, res_channels=16),
    quantizer=VectorQuantizer(num_embeddings=64, embedding_dim=16),
    lr=2e-3,
    images=data.image_format,
)
lightning.Trainer(max_steps=300, **settings).fit(tokenizer, data)

# Second stage: p(masked codes | other codes, class). The tokenizer is frozen.
prior = MaskedPrior(
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

# One column per class, 16 codes in 8 passes.
prior.eval()
labels = torch.arange(10).repeat(4)
generator = torch.Generator().manual_seed(0)
images = prior.sample(40, label=labels, steps=8, guidance=1.5, generator=generator)
save_image(prior.value_range.decode(images), "digits.png", nrow=10)
print("drew", tuple(images.shape), "as digits.png")

# Inpainting: keep the codes of the upper half of ten digits, and draw those of the lower half.
batch = next(iter(data.val_dataloader()))
known = prior.encode(batch["image"][:10])
lower_half = torch.arange(4)[:, None].expand(4, 4) >= 2
drawn = prior.sample_codes(10, label=batch["label"][:10], known=known, mask=lower_half, generator=generator)
print("kept", int((drawn == known)[:, ~lower_half].sum()), "of", known[:, ~lower_half].numel(), "known codes")
save_image(prior.value_range.decode(torch.cat([prior.decode(known), prior.decode(drawn)])), "inpainted.png", nrow=10)
