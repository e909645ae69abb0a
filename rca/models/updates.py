"""Steps of the optimizer that leave out what is no finite number."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from rca.errors import TrainingDiverged

MAX_BAD_STEPS: Final = 5
"""Steps in a row without a finite loss and gradient that end a training."""


class Updates:
    """AdamW with clipped gradients. A step whose loss or gradient is not finite changes nothing.

    On a CPU every step is looked at when it is made. With `on_device` it is the optimizer's kernel that leaves a step out, and
    what became of the steps is read once, at the end of an epoch: asking after each would make a GPU wait for Python.
    """

    def __init__(self, network: nn.Module, *, weight_decay: float, clip: float, on_device: bool) -> None:
        self._parameters = list(network.parameters())
        self._clip, self._on_device = clip, on_device
        self.optimizer = torch.optim.AdamW(self._parameters, weight_decay=weight_decay, fused=on_device)
        self.bad_steps = 0  # in a row, up to the last step
        self._epoch = 0
        self._steps: list[Tensor] = []  # of this epoch: loss, and 1 for a step that was left out

    def begin(self, epoch: int, rate: float) -> None:
        """Begin an epoch, counted from 1, with this learning rate."""
        self._epoch = epoch
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._steps.clear()

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of a loss, (). Raises TrainingDiverged, with `on_device` not before `end`."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        bad = ~torch.isfinite(norm + loss.detach())
        self._steps.append(torch.stack([loss.detach().float(), bad.float()]))
        if self._on_device:
            self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler tells it
            self.optimizer.step()
        elif self._is_left_out(bool(bad)):
            return
        else:
            self.optimizer.step()

    def end(self) -> tuple[list[float], int]:
        """Losses of the steps that were made, and how many were left out. Raises TrainingDiverged."""
        found = torch.stack(self._steps).tolist() if self._steps else []
        if self._on_device:
            for _, bad in found:
                self._is_left_out(bool(bad))
        losses = [loss for loss, bad in found if not bad]
        return losses, len(found) - len(losses)

    def _is_left_out(self, bad: bool) -> bool:
        self.bad_steps = self.bad_steps + 1 if bad else 0
        if self.bad_steps >= MAX_BAD_STEPS:
            raise TrainingDiverged(
                f"training: expected a finite loss, found {MAX_BAD_STEPS} steps in a row without one "
                f"(epoch {self._epoch}); try a lower learning rate, and look for extreme features"
            )
        return bad
