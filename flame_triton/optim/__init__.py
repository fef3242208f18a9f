"""Optimizers and schedules as graph builders."""

from . import schedule
from .optimizer import SGD, AdamW, Lion, Optimizer, global_norm

__all__ = ["SGD", "AdamW", "Lion", "Optimizer", "global_norm", "schedule"]
