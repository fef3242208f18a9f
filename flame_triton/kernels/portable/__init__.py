"""Kernels in plain Triton: they run interpreted on the CPU and compiled on sm_80 and newer."""
