"""The former home of what a run leaves behind: now `bench.plugins.report` and `bench.records`."""

from bench import former

__getattr__ = former.names(
    __name__,
    {
        "bench.plugins.backend": ("FailureKind", "Memory"),
        "bench.plugins.workload": ("Work",),
        "bench.plugins.report": (
            *("End", "Failed", "Launch", "Measured", "Run", "RunFile", "Settings", "Skipped"),
            "Void",
        ),
        "bench.records.outcome": (
            *("Block", "Check", "Cold", "DOES_NOT_FIT", "Flag", "Numerics", "Outcome", "Phase"),
        ),
        "bench.records.run": ("Line", "MOST_LAUNCHES", "Resumed", "SCHEMA_VERSION"),
    },
)
