"""The VQ-GAN autoencoder as taming-transformers and as diffusers name its parts, stated anew in plain torch."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn


def randomized(module, seed):
    """Give every weight, also those of the norms, a random value."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        fan = p[0].numel() if p.ndim > 1 else 4
        noise = torch.randn(p.shape, generator=generator) / math.sqrt(fan)
        p.data = noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    codes = module.quantize.embedding.weight
    codes.data = torch.randn(codes.shape, generator=generator)
    return module.eval().requires_grad_(False)


@torch.no_grad()
def assert_same(model, reference, x):
    """Both encode and decode ``x`` alike; in float64, where rounding cannot hide a difference."""
    model, reference, x = copy.deepcopy(model).double(), copy.deepcopy(reference).double(), x.double()
    indices = model.encode(x)
    assert torch.equal(indices, reference.encode(x))
    assert len(indices.unique()) > 2
    torch.testing.assert_close(model.to_code(model.encoder(x)), reference.quant_conv(reference.encoder(x)))
    torch.testing.assert_close(model.decode(indices), reference.decode(indices))


def normed(norm, x):
    return F.silu(norm(x))


def attend(q, k, v):
    """One head; q, k, v (B, N, C)."""
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[2]), dim=2) @ v


def nearest(z, codes):
    """Indices (B, h, w) of the nearest of ``codes`` (K, D) to z (B, D, h, w)."""
    return (z.movedim(1, -1)[..., None, :] - codes).square().sum(-1).argmin(-1)


class Codebook(nn.Module):
    def __init__(self, num, dim):
        super().__init__()
        self.embedding = nn.Embedding(num, dim)


class Whole(nn.Module):
    """The ends that both libraries share: 1x1 convolutions around the codebook."""

    def __init__(self, encoder, decoder, z_channels, num, dim):
        super().__init__()
        self.encoder, self.decoder, self.quantize = encoder, decoder, Codebook(num, dim)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(z_channels, dim, 1), nn.Conv2d(dim, z_channels, 1)

    def encode(self, x):
        return nearest(self.quant_conv(self.encoder(x)), self.quantize.embedding.weight)

    def decode(self, indices):
        return self.decoder(self.post_quant_conv(self.quantize.embedding(indices).movedim(-1, 1)))


class Res(nn.Module):
    """Residual block; ``shortcut`` is the library's name of the 1x1 convolution."""

    def __init__(self, c, d, groups, shortcut):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, c, 1e-6), nn.Conv2d(c, d, 3, 1, 1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, d, 1e-6), nn.Conv2d(d, d, 3, 1, 1)
        self.shortcut = shortcut if c != d else None
        if self.shortcut:
            setattr(self, shortcut, nn.Conv2d(c, d, 1))

    def forward(self, x):
        y = self.conv2(normed(self.norm2, self.conv1(normed(self.norm1, x))))
        return y + (getattr(self, self.shortcut)(x) if self.shortcut else x)


class Resample(nn.Module):
    def __init__(self, c, down):
        super().__init__()
        self.down, self.conv = down, nn.Conv2d(c, c, 3, 2) if down else nn.Conv2d(c, c, 3, 1, 1)

    def forward(self, x):
        if self.down:
            return self.conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))


# taming-transformers


class TamingAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = nn.GroupNorm(32, c, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (f(y).flatten(2).mT for f in (self.q, self.k, self.v))
        return x + self.proj_out(attend(q, k, v).mT.reshape(x.shape))


class TamingLevel(nn.Module):
    def __init__(self, c, d, blocks, attention):
        super().__init__()
        self.block = nn.ModuleList(Res(c if j == 0 else d, d, 32, "nin_shortcut") for j in range(blocks))
        self.attn = nn.ModuleList(TamingAttention(d) for _ in range(blocks if attention else 0))

    def forward(self, x):
        for j, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[j](x)
        return x


def taming_middle(c):
    blocks = [Res(c, c, 32, "nin_shortcut") for _ in range(2)]
    return nn.ModuleDict({"block_1": blocks[0], "attn_1": TamingAttention(c), "block_2": blocks[1]})


class TamingEncoder(nn.Module):
    def __init__(self, channels, ch, ch_mult, blocks, resolution, attn_resolutions, z_channels):
        super().__init__()
        self.conv_in = nn.Conv2d(channels, ch, 3, 1, 1)
        self.down, c = nn.ModuleList(), ch
        for i, m in enumerate(ch_mult):
            level = TamingLevel(c, ch * m, blocks, resolution // 2**i in attn_resolutions)
            c = ch * m
            if i < len(ch_mult) - 1:
                level.downsample = Resample(c, down=True)
            self.down.append(level)
        self.mid, self.norm_out = taming_middle(c), nn.GroupNorm(32, c, 1e-6)
        self.conv_out = nn.Conv2d(c, z_channels, 3, 1, 1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
            x = level.downsample(x) if hasattr(level, "downsample") else x
        for part in self.mid.values():
            x = part(x)
        return self.conv_out(normed(self.norm_out, x))


class TamingDecoder(nn.Module):
    def __init__(self, channels, ch, ch_mult, blocks, resolution, attn_resolutions, z_channels):
        super().__init__()
        c = ch * ch_mult[-1]
        self.conv_in, self.mid = nn.Conv2d(z_channels, c, 3, 1, 1), taming_middle(c)
        levels = {}
        for i in reversed(range(len(ch_mult))):
            levels[i] = TamingLevel(c, ch * ch_mult[i], blocks + 1, resolution // 2**i in attn_resolutions)
            c = ch * ch_mult[i]
            if i > 0:
                levels[i].upsample = Resample(c, down=False)
        self.up = nn.ModuleList(levels[i] for i in range(len(ch_mult)))  # numbered by resolution, used from the last
        self.norm_out, self.conv_out = nn.GroupNorm(32, c, 1e-6), nn.Conv2d(c, channels, 3, 1, 1)

    def forward(self, z):
        x = self.conv_in(z)
        for part in self.mid.values():
            x = part(x)
        for level in reversed(self.up):
            x = level(x)
            x = level.upsample(x) if hasattr(level, "upsample") else x
        return self.conv_out(normed(self.norm_out, x))


def taming_model(
    ch=32, ch_mult=(1, 2), blocks=1, resolution=16, attn_resolutions=(8,), z_channels=6, num=20, dim=4, seed=0
):
    sizes = (3, ch, ch_mult, blocks, resolution, attn_resolutions, z_channels)
    return randomized(Whole(TamingEncoder(*sizes), TamingDecoder(*sizes), z_channels, num, dim), seed)


# diffusers


class DiffusersAttention(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, c, 1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(c, c) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(c, c), nn.Dropout(0.0)])

    def forward(self, x):
        rows = self.group_norm(x).flatten(2).mT
        y = self.to_out[0](attend(self.to_q(rows), self.to_k(rows), self.to_v(rows)))
        return y.mT.reshape(x.shape) + x


class DiffusersStage(nn.Module):
    """A block of the encoder or decoder, or the middle."""

    def __init__(self, widths, groups, attentions, resample=None):
        super().__init__()
        self.resnets = nn.ModuleList(Res(c, d, groups, "conv_shortcut") for c, d in widths)
        if attentions:
            self.attentions = nn.ModuleList(DiffusersAttention(widths[-1][1], groups) for _ in range(attentions))
        if resample:
            setattr(self, f"{resample}samplers", nn.ModuleList([Resample(widths[-1][1], resample == "down")]))

    def forward(self, x):
        for j, resnet in enumerate(self.resnets):
            x = resnet(x)
            if j < len(getattr(self, "attentions", [])):
                x = self.attentions[j](x)
        for name in ("downsamplers", "upsamplers"):
            x = getattr(self, name)[0](x) if hasattr(self, name) else x
        return x


class DiffusersNet(nn.Module):
    """Encoder or decoder."""

    def __init__(self, way, types, widths, blocks, groups, ends, middle_attention):
        super().__init__()
        self.way, last = way, len(widths) - 1
        self.conv_in = nn.Conv2d(ends[0], widths[0], 3, padding=1)
        stages, c = nn.ModuleList(), widths[0]
        for i, (kind, width) in enumerate(zip(types, widths, strict=True)):
            pairs = [(c if j == 0 else width, width) for j in range(blocks)]
            stages.append(DiffusersStage(pairs, groups, blocks * kind.startswith("Attn"), way if i < last else None))
            c = width
        setattr(self, f"{way}_blocks", stages)
        inner = widths[-1] if way == "down" else widths[0]
        self.mid_block = DiffusersStage([(inner, inner)] * 2, groups, int(middle_attention))
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], 1e-6)
        self.conv_out = nn.Conv2d(widths[-1], ends[1], 3, padding=1)

    def forward(self, x):
        stages = list(getattr(self, f"{self.way}_blocks"))
        x = self.conv_in(x)
        for stage in [*stages, self.mid_block] if self.way == "down" else [self.mid_block, *stages]:
            x = stage(x)
        return self.conv_out(normed(self.conv_norm_out, x))


def diffusers_model(config, seed=0):
    """The network of a config.json."""
    z, blocks, groups = config["latent_channels"], config["layers_per_block"], config["norm_num_groups"]
    widths, middle = config["block_out_channels"], config["mid_block_add_attention"]
    encoder = DiffusersNet(
        "down", config["down_block_types"], widths, blocks, groups, (config["in_channels"], z), middle
    )
    out = (z, config["out_channels"])
    decoder = DiffusersNet("up", config["up_block_types"], widths[::-1], blocks + 1, groups, out, middle)
    dim = config["vq_embed_dim"] or z
    return randomized(Whole(encoder, decoder, z, config["num_vq_embeddings"], dim), seed)
