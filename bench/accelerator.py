"""The former home of what backends of accelerators share: now `bench.plugins.backend`."""

from bench import former

_INSIDE = (
    *("AUTOLOAD", "FALLBACK", "LOST", "MISSING_LIBRARY", "SHARED_NAMES", "UNNAMED_FALLBACK"),
    *("ask", "missing_library", "torch_build"),
)

__getattr__ = former.names(
    __name__,
    {
        "bench.plugins.backend": ("NotAvailable", "TorchBackend", "TorchDevice", "host_fallbacks"),
        "bench.backends._torch_device": _INSIDE,
        "bench.records.reason": ("first_line",),
    },
)
