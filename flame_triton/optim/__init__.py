"""Optimizers and schedules as graph builders."""

from . import schedule
from .clip import global_norm
from .groups import Group, freeze, group
from .optimizer import Optimizer
from .rules import SGD, AdamW, Lion
from .scaler import LossScaler

__all__ = ["SGD", "AdamW", "Group", "Lion", "LossScaler", "Optimizer", "freeze", "global_norm", "group", "schedule"]
