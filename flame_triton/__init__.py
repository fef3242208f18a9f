"""flame_triton: static graphs of ops, reverse-mode gradients as graphs, and Triton kernels that run them."""

__version__ = "0.1.0"
