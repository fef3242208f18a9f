"""Layers and blocks as graph builders with named parameters."""

from . import init
from .blocks import MLP, Attention, TimestepEmbedding, modulate, sinusoid
from .gates import GEGLU, AdaLayerNormContinuous, AdaLayerNormZero, SwiGLU
from .layers import Embedding, LayerNorm, Linear, RMSNorm
from .module import Module, Parameter, Sequential
from .norms import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    SpectralNorm,
    StandardizedWeight,
)

__all__ = [
    "GEGLU",
    "MLP",
    "AdaLayerNormContinuous",
    "AdaLayerNormZero",
    "Attention",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Embedding",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "Linear",
    "Module",
    "Parameter",
    "RMSNorm",
    "Sequential",
    "SpectralNorm",
    "StandardizedWeight",
    "SwiGLU",
    "TimestepEmbedding",
    "init",
    "modulate",
    "sinusoid",
]
