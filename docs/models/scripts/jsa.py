"""Train JSA on digits: categorical codes without a relaxed gradient. About half a minute on one CPU core."""

import lightning
import torch

from vqlab import JSA, Digits, Gaussian, PosteriorSampler, SmallDecoder, SmallEncoder

lightning.seed_everything(0)
data = Digits(image_size=16, batch_size=50)

model = JSA(
    encoder=SmallEncoder(in_channels=1, hidden_channels=16, res_channels=8),  # q(h | x)
    decoder=SmallDecoder(out_channels=1, hidden_channels=16, res_channels=8, out_activation="tanh"),  # p(x | h)
    num_embeddings=32,
    tied_logits=True,  # q knows the embeddings of p
    likelihood=Gaussian(sigma="optimal"),
    sampler=PosteriorSampler(
        num_mis_steps=5,  # proposals of the Metropolis chain per batch
        cache=True,  # each image's chain goes on where it stopped, found by the batch's index
        cache_start_epoch=1,
    ),
    lr=1e-3,
    images=data.image_format,
)


class PrintChains(lightning.Callback):
    """Print how the chains of the training images do."""

    def on_train_epoch_end(self, trainer, pl_module):
        """Print every third epoch."""
        logged = trainer.callback_metrics
        if trainer.current_epoch % 3 == 0:
            names = ("accept_rate", "known_chains", "codebook_usage")
            values = (f"{name} {logged[f'train/{name}']:.2f}" for name in names if f"train/{name}" in logged)
            print(f"epoch {trainer.current_epoch}: " + ", ".join(values))


trainer = lightning.Trainer(
    max_steps=250,
    accelerator="cpu",
    log_every_n_steps=10,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[PrintChains()],
)
trainer.fit(model, data)

x = next(iter(data.val_dataloader()))["image"][:16]
model.eval()
with torch.no_grad():
    codes = model.encode(x)  # the likeliest codes under q
    posterior = model.sample_posterior(x, steps=20)  # codes drawn from p(h | x)
    nll = model.nll(x, num_samples=50)
print("codes", tuple(codes.shape), "- equal to the posterior's:", round((codes == posterior).float().mean().item(), 3))
print("ln p(x, h) of q's codes:", round(model.log_joint(x, codes).mean().item(), 1))
print("ln p(x, h) of the posterior's:", round(model.log_joint(x, posterior).mean().item(), 1))
print("-ln p(x), an upper bound in nats:", round(nll.mean().item(), 1))
