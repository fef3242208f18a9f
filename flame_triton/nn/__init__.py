"""Layers and blocks as graph builders with named parameters."""

from . import init
from .blocks import MLP, Attention, TimestepEmbedding, modulate, sinusoid
from .conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
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
from .pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)
from .resize import PixelShuffle, PixelUnshuffle, Upsample

__all__ = [
    "GEGLU",
    "MLP",
    "AdaLayerNormContinuous",
    "AdaLayerNormZero",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "Attention",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Embedding",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Module",
    "Parameter",
    "PixelShuffle",
    "PixelUnshuffle",
    "RMSNorm",
    "Sequential",
    "SpectralNorm",
    "StandardizedWeight",
    "SwiGLU",
    "TimestepEmbedding",
    "Upsample",
    "init",
    "modulate",
    "sinusoid",
]
