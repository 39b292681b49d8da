"""How long a launch may take, and each of its phases."""

from __future__ import annotations

from bench.records.outcome import Failed, Phase
from bench.records.run import Launch

SHARES: dict[Phase, float] = {
    "start": 1 / 15,
    "import": 1 / 6,
    "open": 1 / 15,
    "numerics": 1 / 3,
    "build": 1 / 2,
    "warm-up": 2 / 3,
    "measure": 2 / 3,
    "report": 1 / 3,
    "explain": 2 / 3,
}
"""How much of a launch's limit each phase may take: what hangs early is ended early."""
SHORTEST_LIMIT_SECONDS = 120.0
"""No phase gets less, unless the whole launch does: a loaded machine may import for a minute."""


def phase_limit(phase: Phase, launch_limit_seconds: float) -> float:
    """Seconds that a phase may take of a launch that has so many in all."""
    share = SHARES[phase] * launch_limit_seconds
    return min(launch_limit_seconds, max(SHORTEST_LIMIT_SECONDS, share))


def ended_sooner(launch: Launch, limit_seconds: float) -> bool:
    """Whether it ended at a smaller limit than one of a launch that has so many seconds: that of a
    budget. Of several ranks nobody can tell, for ranks that hang are ended before their limit.
    """
    outcome = launch.outcome
    if not isinstance(outcome, Failed) or outcome.kind != "timeout" or launch.case.devices > 1:
        return False
    return launch.seconds < phase_limit(outcome.phase, limit_seconds)
