from .diffusers import load_diffusers as load_diffusers
from .diffusers import save_diffusers as save_diffusers
from .taming import load_taming as load_taming
