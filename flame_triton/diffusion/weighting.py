"""Weights of the squared error by the SNR of the step, and losses that use them."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import call
from .prediction import Kind
from .schedules import NoiseSchedule
from .shapes import per_sample


def min_snr_weight(schedule: NoiseSchedule, t: Value, prediction: Kind = "eps", gamma: float = 5.0) -> Value:
    """min(SNR, gamma), as a weight on x_0's error, for the model's own: float32 [B]. t: integer steps [B].

    eps: min(SNR, gamma) / SNR; v: min(SNR, gamma) / (SNR + 1); sample: min(SNR, gamma). Hang et al. 2023.
    """
    snr = schedule.snr
    least = np.minimum(snr, gamma)
    if prediction == "eps":
        table = np.divide(least, snr, out=np.ones_like(snr), where=snr > 0)
    elif prediction == "v":
        table = least / (snr + 1)
    elif prediction == "sample":
        table = least
    else:
        raise ArgumentError(f"is defined for eps, v and sample, got {prediction!r}", op="min_snr_weight")
    return schedule.at(table, t)


def snr_weight(
    schedule: NoiseSchedule,
    t: Value,
    kind: Literal["snr", "debiased", "p2"] = "snr",
    *,
    k: float = 1.0,
    gamma: float = 1.0,
) -> Value:
    """A weight by name, float32 [B]. t: integer steps [B].

    snr: alpha^2 / sigma^2; debiased: 1 / sqrt(SNR), at most sqrt(1000) (Yu et al. 2024); p2: (k + SNR)^-gamma (Choi et
    al. 2022).
    """
    snr = schedule.snr
    if kind == "snr":
        return schedule.at(snr, t)
    if kind == "debiased":
        return schedule.at(1 / np.sqrt(np.maximum(snr, 1e-3)), t)
    if kind == "p2":
        return schedule.at((k + snr) ** -gamma, t)
    raise ArgumentError(f"no weighting is called {kind!r}", op="snr_weight")


def weighted_mse(output: Value, target: Value, weight: Value | None = None, mask: Value | None = None) -> Value:
    """The mean of weight (output - target)^2 over the elements of the mask, float32, 0-d.

    output, target: [B, ...]; weight: [B]; mask: numbers or booleans that broadcast against them, 0 where the error does
    not count. An empty mask gives 0.
    """
    if output.shape != target.shape:
        raise ShapeError(f"output is {output.shape}, target {target.shape}", op="weighted_mse")
    error = call("square", call("cast", output, output.dtype.compute) - call("cast", target, target.dtype.compute))
    if weight is not None:
        error = error * per_sample(weight, error)
    if mask is None:
        return call("mean", error)
    counted = call("broadcast_to", call("cast", mask, error.dtype), error.shape)
    return call("sum", error * counted) / call("maximum", call("sum", counted), 1.0)
