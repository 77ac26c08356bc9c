"""Train S4D-VQ on generated electrocardiograms, and compare with linear interpolation. A minute on one CPU core."""

import lightning
import torch

from vqlab import ECG, S4DVQ, Optimization, ResidualQuantizer, S4DDecoder, S4DEncoder, Schedule, VectorQuantizer

lightning.seed_everything(0)
data = ECG(num_records=40, seconds=30, length=256, batch_size=32)

# 256 samples become 16 positions, and each position the sum of 4 codes of 64, from coarse to fine.
size = {"d_model": 32, "d_state": 16, "pool": [4, 4], "norm": "batch", "mlp": "relu"}
model = S4DVQ(
    encoder=S4DEncoder(**size),
    decoder=S4DDecoder(in_channels=32, **size),
    quantizer=ResidualQuantizer(VectorQuantizer(num_embeddings=64, embedding_dim=16), num_quantizers=4),
    lr=2e-3,
    ssm_lr=1e-3,  # highest rate of the time steps and modes of the S4D layers
    optimization=Optimization(schedule=Schedule("cosine", warmup_steps=20)),
    length=256,
)

trainer = lightning.Trainer(
    max_steps=200,
    accelerator="cpu",
    gradient_clip_val=1.0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, data)

metrics = trainer.validate(model, data, verbose=False)[0]
for name in ("snr", "correlation", "spectral_convergence", "bits_per_sample", "perplexity", "codebook_usage"):
    print(f"val/{name} = {metrics[f'val/{name}']:.3f}")

# Codes can be decoded without the last depths: a coarser signal from fewer bits.
x = next(iter(data.val_dataloader()))["signal"]
model.eval()
with torch.no_grad():
    codes = model.encode(x)
    print("signals", tuple(x.shape), "-> codes", tuple(codes.shape))
    for depths in (1, 2, 4):
        kept = codes.clone()
        kept[..., depths:] = -1  # -1 adds nothing
        error = (model.decode(kept) - x).square().mean()
        print(f"{depths} of 4 depths: MSE {error.item():.3f}")
