"""What tests need before they import anything."""

import os

import torch
from hypothesis import settings

from tformerlib.peers import prepare

# Read when Triton is imported, by whichever test comes first. On a GPU the kernels are compiled, for test_gpu.py.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)  # tensors here are tiny: threads cost more than they bring

settings.register_profile("busy", deadline=None)  # a slow machine is no failure
settings.load_profile("busy")

prepare()  # timm and transformers can be imported now
