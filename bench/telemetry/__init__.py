"""What was seen beside the work: power, energy, clocks, heat, other users, other load."""

from bench import former

__getattr__ = former.names(
    __name__,
    {
        "bench.plugins.backend": ("NotObservable", "Process", "Source", "said"),
        "bench.telemetry.source": ("TOOL_SECONDS",),
    },
)
