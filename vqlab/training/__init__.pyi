from .arrays import save_arrays as save_arrays
from .checkpoint import load as load
from .optimization import GANOptimization as GANOptimization
from .optimization import Optimization as Optimization
from .schedules import Schedule as Schedule
