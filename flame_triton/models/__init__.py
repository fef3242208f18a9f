"""Diffusion models with diffusers' names and files: from_config, from_pretrained, save_pretrained."""

from .config import Config
from .dit import DiT, DiTConfig
from .model import Model

__all__ = ["Config", "DiT", "DiTConfig", "Model"]
