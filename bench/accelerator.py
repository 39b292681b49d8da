"""The former home of what backends of accelerators share: now `bench.plugins.backend`."""

from bench import former

_INSIDE = ("AUTOLOAD", "LOST", "SHARED_NAMES", "ask", "torch_build")

__getattr__ = former.names(
    __name__,
    {
        "bench.plugins.backend": ("NotAvailable", "TorchBackend", "TorchDevice", "host_fallbacks"),
        "bench.backends._torch_device": _INSIDE,
        "bench.backends._host_fallback": ("FALLBACK", "UNNAMED_FALLBACK"),
        "bench.backends._loaded": ("MISSING_LIBRARY", "missing_library"),
        "bench.records.reason": ("first_line",),
    },
)
