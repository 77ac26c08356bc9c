"""Networks (feature extractors, tokenizers) that are used and not trained."""

from typing import Any

from torch import nn

from vqlab.nn.precision import KeepsFloat32


class Frozen(KeepsFloat32):
    """Hold ``net`` in eval mode and float32, without gradients to its weights, and out of every state dict.

    ``saved`` keeps the weights in the state dict, for a network that cannot be loaded from elsewhere.

    Example:
        >>> frozen = Frozen(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
        >>> frozen.train().net.training, list(frozen.state_dict()), any(p.requires_grad for p in frozen.parameters())
        (False, [], False)
    """

    def __init__(self, net: nn.Module, saved: bool = False) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        if not saved:
            self.register_state_dict_post_hook(_drop)
            self.register_load_state_dict_pre_hook(_fill)

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)


def _drop(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    for key in [key for key in state_dict if key.startswith(prefix + "net.")]:
        del state_dict[key]


def _fill(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Add the weights of the net, so that strict loading does not miss them."""
    net: nn.Module = module.net  # type: ignore[assignment]
    state_dict.update({f"{prefix}net.{key}": value for key, value in net.state_dict().items()})
