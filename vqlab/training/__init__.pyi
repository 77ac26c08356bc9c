from .arrays import save_arrays as save_arrays
from .checkpoint import load as load
from .schedules import Schedule as Schedule
