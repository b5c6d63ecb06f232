"""Triton kernels of attention: the programs, how they are launched, and the sizes of their tiles."""
