from .code_file import CodedRecord as CodedRecord
from .code_file import pack_record as pack_record
from .code_file import unpack_record as unpack_record
from .diffusers import load_diffusers as load_diffusers
from .diffusers import save_diffusers as save_diffusers
from .taming import load_taming as load_taming
