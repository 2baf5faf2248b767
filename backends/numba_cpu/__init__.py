"""The CPU backend: a Function becomes a schedule of Numba-compiled kernels."""
