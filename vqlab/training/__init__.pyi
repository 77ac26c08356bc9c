from .arrays import save_arrays as save_arrays
from .checkpoint import load as load
from .learning_rate import Schedule as Schedule
from .optimization import GANOptimization as GANOptimization
from .optimization import Optimization as Optimization
