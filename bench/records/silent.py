"""What a step of many ranks takes when they exchange nothing: timed beside the real step, in turns.

The difference is the communication that the step waits for (*exposed*: what is hidden behind
computing costs nothing). A silent block is also the only one in which a rank's own time is its
computing: in a real one all end together, with the slowest.
"""

from __future__ import annotations

from bench.records.value import Value


class Silent(Value, frozen=True, kw_only=True):
    """Pairs of blocks after the steady ones: a real one, and one whose collectives do nothing."""

    steps: int
    """In each block."""
    real_ns: tuple[int, ...]
    """Of each real block the slowest rank's time."""
    silent_ns: tuple[int, ...]
    """Of each silent block likewise. What a rank took by itself is its `Share.silent_ns`."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.real_ns or len(self.real_ns) != len(self.silent_ns):
            raise ValueError("silent blocks come in pairs with real ones, of one step or more")
        if min((*self.real_ns, *self.silent_ns)) <= 0:
            raise ValueError("a block's times must be above zero")

    @property
    def exposed_seconds(self) -> list[float]:
        """Of each pair, seconds of communication that a step waits for; noise may be negative."""
        pairs = zip(self.real_ns, self.silent_ns, strict=True)
        return [(real - silent) / 1e9 / self.steps for real, silent in pairs]
