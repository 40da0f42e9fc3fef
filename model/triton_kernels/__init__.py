"""Kernels in Triton, which only some machines have. No registry imports them."""
