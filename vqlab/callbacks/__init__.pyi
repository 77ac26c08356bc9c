from .checkpoints import LastAndBest as LastAndBest
from .ema import EMA as EMA
from .health.callback import Health as Health
from .plateau import Plateau as Plateau
from .sample_grid import SampleGrid as SampleGrid
from .sample_metrics import SampleMetrics as SampleMetrics
