"""Tells a loss that jumps far above the last ones; called by the trainer before each update."""

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

WINDOW_STEPS = 128
"""Steps that a loss is compared with. Window and distance are those of OLMo's optimizer (Groeneveld et al. 2024)."""

FEWEST_STEPS = 32
"""Steps that must be known before any loss counts as a spike."""

SIGMAS = 6.0
"""Standard deviations above the mean of the window at which a spike begins."""


@dataclass(frozen=True, slots=True)
class Spike:
    """A step's loss, and the highest that would have been no spike, in nats."""

    loss: float
    limit: float


class LossWatch:
    """The losses of the last steps, in nats. A spike enters as the limit that it passed.

    So one bad batch does not hide the next, and a loss that stays high is the new normal after a few steps.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._losses = deque(losses, maxlen=WINDOW_STEPS)

    @property
    def losses(self) -> list[float]:
        """What a checkpoint keeps, oldest first."""
        return list(self._losses)

    def limit(self) -> float:
        """Return the highest loss that is no spike; infinite while too few steps are known."""
        if len(self._losses) < FEWEST_STEPS:
            return math.inf
        mean = statistics.fmean(self._losses)
        variance = math.fsum((loss - mean) ** 2 for loss in self._losses) / (len(self._losses) - 1)
        return mean + SIGMAS * math.sqrt(variance)

    def add(self, loss: float) -> Spike | None:
        """Take in a step's finite loss, and return it as a spike if it is one."""
        limit = self.limit()
        self._losses.append(min(loss, limit))
        return Spike(loss, limit) if loss > limit else None
