"""What all models are: objects that record their arguments, and LightningModules."""

from collections.abc import Iterable

import lightning

from vqlab.nn.rebuild import Rebuildable


class Model(Rebuildable, lightning.LightningModule):
    """The base class of all models."""

    def __dir__(self) -> Iterable[str]:
        """Leave out ``trainer`` while there is none: torch.jit.trace reads every attribute, and Lightning raises."""
        return [name for name in super().__dir__() if name != "trainer" or self._trainer is not None]
