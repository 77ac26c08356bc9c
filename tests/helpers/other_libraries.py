"""The VQ-GAN autoencoders of diffusers and taming-transformers in plain torch, with their parameter names."""

import copy
import itertools
import math
import re

import torch
import torch.nn.functional as F
from torch import nn


@torch.no_grad()
def assert_same(model, reference, x):
    """Check that both models encode and decode ``x`` to the same values, in float64."""
    model, reference, x = copy.deepcopy(model).double(), copy.deepcopy(reference).double(), x.double()
    indices = model.encode(x)
    assert torch.equal(indices, reference.encode(x))
    assert len(indices.unique()) > 2
    torch.testing.assert_close(model.to_code(model.encoder(x)), reference.quant_conv(reference.encoder(x)))
    torch.testing.assert_close(model.decode(indices), reference.decode(indices))


class Res(nn.Module):
    def __init__(self, c, d, groups):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, c, 1e-6), nn.Conv2d(c, d, 3, 1, 1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, d, 1e-6), nn.Conv2d(d, d, 3, 1, 1)
        self.conv_shortcut = nn.Conv2d(c, d, 1) if c != d else nn.Identity()

    def forward(self, x):
        return self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x)))))) + self.conv_shortcut(x)


class Attention(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, c, 1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(c, c) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(c, c)])

    def forward(self, x):
        rows = self.group_norm(x).flatten(2).mT
        attended = F.scaled_dot_product_attention(self.to_q(rows), self.to_k(rows), self.to_v(rows))
        return self.to_out[0](attended).mT.reshape(x.shape) + x


class Resample(nn.Module):
    def __init__(self, c, way):
        super().__init__()
        self.down = way == "down"
        self.conv = nn.Conv2d(c, c, 3, 2) if self.down else nn.Conv2d(c, c, 3, 1, 1)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.down else x.repeat_interleave(2, 2).repeat_interleave(2, 3))


class Stage(nn.Module):
    """A level of the encoder or decoder, or the middle."""

    def __init__(self, widths, groups, attentions, way=None):
        super().__init__()
        self.way, c = way, widths[-1]
        self.resnets = nn.ModuleList(Res(a, b, groups) for a, b in itertools.pairwise(widths))
        self.attentions = nn.ModuleList(Attention(c, groups) for _ in range(attentions))
        if way:
            setattr(self, f"{way}samplers", nn.ModuleList([Resample(c, way)]))

    def forward(self, x):
        for j, resnet in enumerate(self.resnets):
            x = resnet(x)
            x = self.attentions[j](x) if j < len(self.attentions) else x
        return getattr(self, f"{self.way}samplers")[0](x) if self.way else x


class Net(nn.Module):
    """Encoder (``way="down"``) or decoder (``way="up"``) with one flag in ``attention`` for each level."""

    def __init__(self, way, attention, widths, blocks, groups, ends, middle_attention):
        super().__init__()
        self.way, c, last = way, widths[0], len(widths) - 1
        self.conv_in = nn.Conv2d(ends[0], c, 3, padding=1)
        stages = nn.ModuleList()
        for i, (attends, width) in enumerate(zip(attention, widths, strict=True)):
            stages.append(Stage([c] + blocks * [width], groups, blocks * attends, way if i < last else None))
            c = width
        setattr(self, f"{way}_blocks", stages)
        self.mid_block = Stage(3 * [widths[-1] if way == "down" else widths[0]], groups, int(middle_attention))
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], 1e-6)
        self.conv_out = nn.Conv2d(widths[-1], ends[1], 3, padding=1)

    def forward(self, x):
        stages = list(getattr(self, f"{self.way}_blocks"))
        x = self.conv_in(x)
        for stage in [*stages, self.mid_block] if self.way == "down" else [self.mid_block, *stages]:
            x = stage(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Diffusers(nn.Module):
    """Encoder, decoder, 1x1 convolutions and codebook with random weights (also in the norms)."""

    def __init__(self, config, seed=0):
        super().__init__()
        z, widths, groups = config["latent_channels"], config["block_out_channels"], config["norm_num_groups"]
        down, up = ([kind.startswith("Attn") for kind in config[f"{way}_block_types"]] for way in ("down", "up"))
        blocks, middle, dim = config["layers_per_block"], config["mid_block_add_attention"], config["vq_embed_dim"] or z
        self.encoder = Net("down", down, widths, blocks, groups, (config["in_channels"], z), middle)
        self.decoder = Net("up", up, widths[::-1], blocks + 1, groups, (z, config["out_channels"]), middle)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(config["num_vq_embeddings"], dim)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(z, dim, 1), nn.Conv2d(dim, z, 1)
        generator = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            scale = 1.0 if "embedding" in name else math.sqrt(p[0].numel() if p.ndim > 1 else 4)
            p.data = torch.randn(p.shape, generator=generator) / scale * (4 if name == "quant_conv.weight" else 1)
            p.data += 1.0 if "norm" in name and name.endswith("weight") else 0.0
        self.eval().requires_grad_(False)

    def encode(self, x):
        """Return indices (B, h, w) of the nearest codes."""
        z = self.quant_conv(self.encoder(x)).movedim(1, -1)
        return (z[..., None, :] - self.quantize.embedding.weight).square().sum(-1).argmin(-1)

    def decode(self, indices):
        return self.decoder(self.post_quant_conv(self.quantize.embedding(indices).movedim(-1, 1)))


diffusers_model = Diffusers  # from the settings of a config.json
TAMING = {  # a pattern in diffusers' names -> taming's name
    r"down_blocks": "down",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.attentions\.0": "mid.attn_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"resnets": "block",
    r"attentions": "attn",
    r"(down|up)samplers\.0": r"\1sample",
    r"conv_shortcut": "nin_shortcut",
    r"group_norm": "norm",
    r"to_([qkv])": r"\1",
    r"to_out\.0": "proj_out",
    r"conv_norm_out": "norm_out",
}


class Taming(Diffusers):
    """The same network; attention has 1x1 convolutions, and the decoder's levels are numbered by resolution."""

    def state_dict(self):
        last, found = len(self.decoder.up_blocks) - 1, {}
        for name, value in super().state_dict().items():
            name = re.sub(r"up_blocks\.(\d)", lambda level: f"up.{last - int(level[1])}", name)
            for pattern, new in TAMING.items():
                name = re.sub(pattern, new, name)
            found[name] = value[..., None, None] if re.search(r"\.(q|k|v|proj_out)\.weight", name) else value
        return found


def taming_model(
    ch=32, ch_mult=(1, 2), blocks=1, resolution=16, attn_resolutions=(8,), z_channels=6, num=20, dim=4, seed=0
):
    kinds = ["Attn" * (resolution // 2**i in attn_resolutions) for i in range(len(ch_mult))]
    config = {"block_out_channels": [ch * m for m in ch_mult], "norm_num_groups": 32, "layers_per_block": blocks}
    config |= {"down_block_types": kinds, "up_block_types": kinds[::-1], "mid_block_add_attention": True}
    config |= {"in_channels": 3, "out_channels": 3, "latent_channels": z_channels}
    return Taming({**config, "num_vq_embeddings": num, "vq_embed_dim": dim}, seed)
