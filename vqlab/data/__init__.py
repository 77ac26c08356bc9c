"""DataModules: one per source of images, signals, texts or fonts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
