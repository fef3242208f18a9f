"""Optimizers and schedules as graph builders."""

from . import schedule
from .accumulate import Accumulate, Accumulating
from .average import ema_weights, save_averages
from .clip import global_norm
from .groups import Group, freeze, group
from .optimizer import Optimizer
from .rules import SGD, AdamW, Lion
from .scaler import LossScaler

__all__ = [
    "SGD",
    "Accumulate",
    "Accumulating",
    "AdamW",
    "Group",
    "Lion",
    "LossScaler",
    "Optimizer",
    "ema_weights",
    "freeze",
    "global_norm",
    "group",
    "save_averages",
    "schedule",
]
