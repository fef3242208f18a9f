"""Measurements against torch, on a GPU. Run from a checkout: `flame-triton bench`, `python -m bench.digits_step`."""
