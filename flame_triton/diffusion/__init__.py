"""Diffusion without the network: noise schedules, what models predict, weightings, samplers, guidance."""

from .ancestral import ddim, ddpm
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
from .multistep import dpmpp_2m, flow_dpmpp_2m, flow_unipc, pndm, unipc
from .noise import dropped, offset_noise, perturbed_noise, pyramid_noise
from .ode import euler, euler_ancestral, flow_euler, flow_sigmas, heun, levels_of, lms
from .prediction import clean_from, convert, noise_from
from .sampler import Sampler, StepGraph, sample_graph, step_graph
from .schedules import (
    NoiseSchedule,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    schedule,
    spaced_steps,
    zero_terminal_snr,
)
from .sigmas import exponential_sigmas, karras_sigmas
from .weighting import min_snr_weight, snr_weight, weighted_mse

__all__ = [
    "TRAIN_STEPS",
    "NoiseSchedule",
    "Sampler",
    "StepGraph",
    "clean_from",
    "convert",
    "cosine_betas",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "draw_times",
    "dropped",
    "euler",
    "euler_ancestral",
    "exponential_sigmas",
    "flow_dpmpp_2m",
    "flow_euler",
    "flow_noisy",
    "flow_sigmas",
    "flow_target",
    "flow_unipc",
    "flow_weight",
    "guide",
    "guide_zero_star",
    "heun",
    "karras_sigmas",
    "levels_of",
    "linear_betas",
    "lms",
    "min_snr_weight",
    "noise_from",
    "offset_noise",
    "perturbed_noise",
    "pndm",
    "pyramid_noise",
    "resolution_mu",
    "sample_graph",
    "scaled_linear_betas",
    "schedule",
    "shift_times",
    "snr_weight",
    "spaced_steps",
    "step_graph",
    "times_from",
    "unipc",
    "weighted_mse",
    "zero_terminal_snr",
]
