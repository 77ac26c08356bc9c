"""Train a small VQ-GAN on digits, the generator loss from step 200. A minute on one CPU core, no download."""

import lightning
import torch

from vqlab import VQGAN, AdversarialSettings, ConvDecoder, ConvEncoder, Digits, PatchGAN, VectorQuantizer

lightning.seed_everything(0)
data = Digits(image_size=16, batch_size=32)

# A narrow version of the paper's networks: 16 x 16 pixels to 4 x 4 codes.
size = {"base_channels": 16, "channel_multipliers": [1, 1, 2], "num_res_blocks": 1, "z_channels": 32}
model = VQGAN(
    encoder=ConvEncoder(in_channels=1, **size),
    decoder=ConvDecoder(out_channels=1, **size, out_activation="tanh"),
    quantizer=VectorQuantizer(num_embeddings=256, embedding_dim=32),
    perceptual_weight=0,  # LPIPS needs VGG weights, which are fetched once
    adversarial=AdversarialSettings(
        discriminator=PatchGAN(in_channels=1, base_channels=16, num_layers=1),
        disc_start=200,  # the generator loss is switched on
        disc_warmup=100,  # before that, only the discriminator is trained
        disc_weight=0.02,  # small and fixed, as in configs/vqgan_small.yaml
        adaptive=False,
        disc_lr=2e-4,
        lecam_weight=0.01,
    ),
    lr=1e-3,
    images=data.image_format,
)


class PrintDiscriminator(lightning.Callback):
    """Print what the discriminator makes of real images and of reconstructions."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Print every 100 batches; vqlab counts batches, not optimizer calls."""
        logged = trainer.callback_metrics
        if trainer.global_step % 100 == 0:
            names = ("train/rec_loss", "train/d_loss", "train/g_loss")
            values = (f"{name} {logged[name]:.3f}" for name in names if name in logged)
            print(f"step {trainer.global_step}: " + ", ".join(values))


trainer = lightning.Trainer(
    max_steps=400,
    accelerator="cpu",
    log_every_n_steps=10,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[PrintDiscriminator()],
)
trainer.fit(model, data)

metrics = trainer.validate(model, data, verbose=False)[0]
print({name: round(metrics[f"val/{name}"], 3) for name in ("psnr", "ssim", "perplexity", "codebook_usage")})

batch = next(iter(data.val_dataloader()))
with torch.no_grad():
    codes = model.eval().encode(batch["image"])
print("codes", tuple(codes.shape), "from", codes.min().item(), "to", codes.max().item())
