"""Draw the letters of one font in the style of another: DejaVu Sans to DejaVu Serif. A minute on one CPU core."""

import lightning
import torch
from torchvision.utils import save_image

from vqlab import FontGAN, FontPairs, GANOptimization, GlyphDiscriminator, Schedule, UNet

lightning.seed_everything(0)

# Characters that both fonts have. Training and validation have different characters.
data = FontPairs(image_size=32, charset=["ascii", "latin", "greek"], batch_size=16, cache=None)
print(f"{data.train_size} characters to train on, {data.style_names[0]} is the target")

model = FontGAN(
    generator=UNet(image_size=32, base_channels=16),
    discriminator=GlyphDiscriminator(base_channels=16),
    disc_weight=0.25,
    l1_weight=100.0,
    lr=2e-3,
    optimization=GANOptimization(disc_lr=2e-4, schedule=Schedule("cosine", warmup_steps=20)),
    image_size=32,
)

trainer = lightning.Trainer(
    max_steps=250,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, data)

# Distances to the target, beside those of the source glyph ("identity"). A gain of 0 is no better than a copy.
metrics = trainer.validate(model, data, verbose=False)[0]
for name in ("l1", "l1_identity", "l1_gain", "ssim", "ssim_identity", "retrieval", "diversity"):
    print(f"val/{name} = {metrics[f'val/{name}']:.3f}")

# Source, generated and target, in three rows.
batch = next(iter(data.val_dataloader()))
with torch.no_grad():
    glyphs = model.translate(batch["source"][:12], style=0)
rows = torch.cat([batch["source"][:12], glyphs, batch["target"][:12]])
save_image((rows + 1) / 2, "letters.png", nrow=12)
print("wrote letters.png:", "".join(chr(char) for char in batch["char"][:12].tolist()))
