"""Files that appear whole or not at all."""

from vqlab.atomic_io import append as append
from vqlab.atomic_io import disk_errors as disk_errors
from vqlab.atomic_io import write_atomic as write_atomic
from vqlab.training.lightning_fixes import AtomicCheckpointIO as AtomicCheckpointIO
