"""A suite as pytest items, each launch as a round of pytest-benchmark.

    pytest --pyargs bench.suite --accelmark-suite quick --benchmark-autosave

Launches of different cases must take turns, or drift of the machine would hit one and spare
another. So nothing is measured item by item: before the first item runs, one session measures every
case that was selected, as `accelmark run` does, and says so line by line. Each item then replays
its own launches to pytest-benchmark on a clock that only they move: a round is a launch, and its
time is seconds per item of work, or per 10^9 where that is one operation or byte; the table's
heading says which. pytest-benchmark's table, its saved files, `--benchmark-compare` and
`--benchmark-compare-fail` work, though no case fails that is not surely slower, and `accelmark
compare` reads the saved files.

In every other pytest run this plugin does nothing, and imports nothing of accelmark but itself.
PYTEST_DONT_REWRITE
"""

from bench.pytest_plugin.items import pytest_collection_finish, pytest_pycollect_makeitem
from bench.pytest_plugin.measure import (
    pytest_runtestloop,
    pytest_terminal_summary,
    pytest_unconfigure,
)
from bench.pytest_plugin.options import (
    pytest_addoption,
    pytest_configure,
    pytest_load_initial_conftests,
)
from bench.pytest_plugin.saved import (
    pytest_benchmark_compare_machine_info,
    pytest_benchmark_update_json,
)

__all__ = [
    "pytest_addoption",
    "pytest_benchmark_compare_machine_info",
    "pytest_benchmark_update_json",
    "pytest_collection_finish",
    "pytest_configure",
    "pytest_load_initial_conftests",
    "pytest_pycollect_makeitem",
    "pytest_runtestloop",
    "pytest_terminal_summary",
    "pytest_unconfigure",
]
