"""Networks that are used but not trained: feature extractors, tokenizers."""

from typing import Any

from torch import nn

from vqlab.nn.precision import KeepsFloat32


class Frozen(KeepsFloat32):
    """Keep ``net`` in eval mode and float32, without gradients of its weights, and out of state dicts unless ``saved``.

    Example:
        >>> frozen = Frozen(nn.Linear(2, 2)).train()
        >>> frozen.net.training, frozen.net.weight.requires_grad, list(frozen.state_dict())
        (False, False, [])
    """

    def __init__(self, net: nn.Module, saved: bool = False) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        if not saved:
            self.register_state_dict_post_hook(_remove_weights)
            self.register_load_state_dict_pre_hook(_add_weights)

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)


def _remove_weights(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    for key in [key for key in state_dict if key.startswith(prefix + "net.")]:
        del state_dict[key]


def _add_weights(module: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:  # for strict loading
    state_dict.update({f"{prefix}net.{key}": value for key, value in module.net.state_dict().items()})
