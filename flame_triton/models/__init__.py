"""Diffusion models with diffusers' names and files: from_config, from_pretrained, save_pretrained."""

from . import convert
from .config import Config
from .dit import DiT, DiTConfig
from .flux import Flux, FluxConfig, token_places
from .model import Model
from .sd3 import SD3, SD3Config

__all__ = ["SD3", "Config", "DiT", "DiTConfig", "Flux", "FluxConfig", "Model", "SD3Config", "convert", "token_places"]
