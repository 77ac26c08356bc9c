"""Train a VQ-VAE on crops of photographs, and look at its codes. About half a minute on one CPU core, no download."""

import lightning
import torch

import vqlab
from vqlab import VQVAE, CodebookUsage, Photos, SmallDecoder, SmallEncoder, VectorQuantizer

lightning.seed_everything(0)

# Crops of 32 x 32 pixels. Two photographs are held out for validation and test.
data = Photos(num_train=4000, num_val=256, batch_size=32)

# Images (B, 3, 32, 32) become maps of 8 x 8 vectors, and each vector one of 256 codes.
model = VQVAE(
    encoder=SmallEncoder(hidden_channels=32, res_channels=16),
    decoder=SmallDecoder(hidden_channels=32, res_channels=16),
    quantizer=VectorQuantizer(num_embeddings=256, embedding_dim=32),
    lr=2e-3,
)

trainer = lightning.Trainer(
    max_steps=300,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, data)

# The PSNR of the reconstructions, and that of 4 x 4 patches replaced by their mean colour. 300 steps do not reach it;
# configs/quickstart.yaml, with 2,200 steps of a larger network, exceeds it by 2.6 dB.
metrics = trainer.validate(model, data, verbose=False)[0]
for name in ("psnr", "psnr_patch_mean", "ssim", "perplexity", "codebook_usage"):
    print(f"val/{name} = {metrics[f'val/{name}']:.3f}")

# encode gives integers, decode gives images; both work on any batch.
batch = next(iter(data.val_dataloader()))
model.eval()
with torch.no_grad():
    codes = model.encode(batch["image"])
    images = model.decode(codes)
print("images", tuple(batch["image"].shape), "-> codes", tuple(codes.shape), "-> images", tuple(images.shape))

# Codebook utilization of any set of codes.
usage = CodebookUsage(num_embeddings=256)
usage.update(codes)
print({name: round(value.item(), 3) for name, value in usage.compute().items()})

# A checkpoint holds the class and all arguments, so vqlab.load needs no more than the path.
trainer.save_checkpoint("vqvae.ckpt")
again = vqlab.load("vqvae.ckpt")
with torch.no_grad():
    print("the same codes after loading:", torch.equal(codes, again.encode(batch["image"])))
