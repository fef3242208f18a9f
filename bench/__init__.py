"""Measurements against torch, on a GPU. Run from a checkout: `python -m bench.digits_step`."""
