"""Layers and blocks as graph builders with named parameters."""

from . import init
from .blocks import MLP, Attention, TimestepEmbedding, modulate, sinusoid
from .conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from .layers import Embedding, LayerNorm, Linear, RMSNorm
from .module import Module, Parameter, Sequential

__all__ = [
    "MLP",
    "Attention",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Embedding",
    "LayerNorm",
    "Linear",
    "Module",
    "Parameter",
    "RMSNorm",
    "Sequential",
    "TimestepEmbedding",
    "init",
    "modulate",
    "sinusoid",
]
