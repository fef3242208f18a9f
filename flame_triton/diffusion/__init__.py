"""Diffusion without the network: noise schedules, what models predict, weightings, samplers, guidance."""

from .euler import flow_euler, flow_sigmas
from .flow import (
    TRAIN_STEPS,
    draw_times,
    flow_noisy,
    flow_target,
    flow_weight,
    resolution_mu,
    shift_times,
    times_from,
)
from .guidance import guide, guide_zero_star
from .sampler import Sampler, StepGraph, sample_graph, step_graph
from .sigmas import exponential_sigmas, karras_sigmas

__all__ = [
    "TRAIN_STEPS",
    "Sampler",
    "StepGraph",
    "draw_times",
    "exponential_sigmas",
    "flow_euler",
    "flow_noisy",
    "flow_sigmas",
    "flow_target",
    "flow_weight",
    "guide",
    "guide_zero_star",
    "karras_sigmas",
    "resolution_mu",
    "sample_graph",
    "shift_times",
    "step_graph",
    "times_from",
]
