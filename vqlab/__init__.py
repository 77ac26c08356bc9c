"""vqlab: discrete-representation and adversarial models in PyTorch Lightning.

    from vqlab import VQVAE, FSQ, CIFAR10
    import vqlab; model = vqlab.load("runs/vqvae/first/checkpoints/best.ckpt")

The public names are listed in ``__init__.pyi`` and imported at their first use, so ``import vqlab`` needs no torch.
"""

import lazy_loader

__version__ = "0.2.0.dev0"
_load_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__.append("__version__")
# Names until 0.1.
RENAMED = {"GlyphJudge": "GlyphDiscriminator", "Glyphs": "GlyphDistance", "Unquantized": "IdentityQuantizer"}


def __getattr__(name: str) -> object:
    return _load_name(RENAMED.get(name, name))
