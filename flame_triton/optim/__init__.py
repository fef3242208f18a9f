"""Optimizers and schedules as graph builders."""

from . import schedule
from .accumulate import Accumulate, Accumulating
from .adafactor import Adafactor
from .adam import NAdam, RAdam
from .average import ema_weights, save_averages
from .clip import global_norm
from .groups import Group, freeze, group
from .muon import Muon
from .optimizer import Optimizer
from .prodigy import Prodigy
from .rules import SGD, AdamW, Lion
from .scaler import LossScaler
from .schedule_free import ScheduleFreeAdamW

__all__ = [
    "SGD",
    "Accumulate",
    "Accumulating",
    "Adafactor",
    "AdamW",
    "Group",
    "Lion",
    "LossScaler",
    "Muon",
    "NAdam",
    "Optimizer",
    "Prodigy",
    "RAdam",
    "ScheduleFreeAdamW",
    "ema_weights",
    "freeze",
    "global_norm",
    "group",
    "save_averages",
    "schedule",
]
