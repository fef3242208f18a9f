"""Steps whose numbers are not finite: what is to be expected, what is a fault, and where the fault comes from.

With a LossScaler, a step that is skipped is how the scaler finds the largest scale: nothing is looked into. Only if
steps are skipped over and over is the step run again with a scale of 1; what is not finite even then is a fault.
Without a scaler every skipped step is one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from ..errors import NonFiniteError
from ..optim import LossScaler
from ..runtime.finite import NonFinite
from ..runtime.state import State

MAX_SKIPPED = 10
"""So many steps without finite gradients, one after the other, end the run."""


class Steps(Protocol):
    """A program, or the programs of accumulated steps."""

    @property
    def state(self) -> State: ...

    def find_non_finite(self, *arrays: Any) -> NonFinite | None: ...


class Faults:
    """Watches the steps of a run. last: what made the last fault, as text, until `take` is called."""

    def __init__(self, program: Steps, scaler: LossScaler | None = None) -> None:
        self.program, self.scaler = program, scaler
        self.in_a_row = 0
        self.last: str | None = None

    def watch(self, step: int, loss: float, skipped: bool, arrays: Sequence[Any]) -> None:
        """After step number `step` on these arrays. Raises NonFiniteError if the run must end: for a loss that is not
        finite, and for MAX_SKIPPED faults in a row."""
        if not math.isfinite(loss):
            found = self.program.find_non_finite(*arrays)
            raise NonFiniteError(f"step {step}: the loss is not finite; the step was not taken\n{found or ''}".rstrip())
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        if not skipped:
            return
        if self.scaler is None:
            if self.in_a_row == 1 and self.last is None:
                self.last = (
                    f"step {step} was skipped, its gradients are not finite\n{self._find(arrays) or ''}".rstrip()
                )
            if self.in_a_row >= MAX_SKIPPED:
                raise NonFiniteError(
                    f"step {step}: for {MAX_SKIPPED} steps the gradients were not finite; the step was not taken\n"
                    f"{self._find(arrays) or ''}".rstrip()
                )
        elif self.in_a_row >= MAX_SKIPPED or self.scale < 1:
            found = self._find(arrays)
            if found is not None:
                raise NonFiniteError(
                    f"step {step}: {self.in_a_row} steps in a row were skipped, and the gradients are not finite "
                    f"with a loss scale of 1 either; the step was not taken\n{found}"
                )
            self.in_a_row = 0

    @property
    def scale(self) -> float:
        """The loss scale as it stands; 1 without a scaler."""
        return float(self.program.state[self.scaler.value]) if self.scaler is not None else 1.0

    def take(self) -> dict[str, Any]:
        """What a line of the log says: the last fault since the line before, and the loss scale."""
        made: dict[str, Any] = {"fault": self.last} if self.last is not None else {}
        if self.scaler is not None:
            made["loss_scale"] = self.scale
        self.last = None
        return made

    def _find(self, arrays: Sequence[Any]) -> NonFinite | None:
        """What makes the first non-finite value when the loss is not scaled."""
        if self.scaler is None:
            return self.program.find_non_finite(*arrays)
        state, place = self.program.state, self.scaler.value
        scale = state[place]
        try:
            state.set(place, scale * 0 + 1)
            return self.program.find_non_finite(*arrays)
        finally:
            state.set(place, scale)
