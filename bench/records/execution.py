"""How a step is executed: the words of a case, and what each of them asks for.

Two executions are two cases, never set against each other in one ratio.
"""

from __future__ import annotations

EAGER, COMPILE, GRAPH, COMPILE_GRAPH = "eager", "compile", "graph", "compile-graph"
"""Operator by operator; through torch.compile; recorded once and replayed; compiled, and then
recorded once and replayed."""
EXECUTIONS = (EAGER, COMPILE)
"""Of a mode whose job runs its model through `bench.workloads.jobs.jobs`, which can compile it."""
DECODE_EXECUTIONS = (*EXECUTIONS, GRAPH)
"""Of a mode whose step takes nothing from the host, so that it can be recorded and replayed."""
ALL_EXECUTIONS = (*DECODE_EXECUTIONS, COMPILE_GRAPH)
"""Of a mode of which what is recorded may be what was compiled, as of the jobs of
`bench.workloads.jobs.jobs`."""

RESERVED = "reserved: a graph keeps its pool"
"""In the scope of a memory figure of what is recorded: a replay allocates nothing, and what the
recorded step needed stays reserved for its graph."""
NOT_ITS_POOL = "without what a graph keeps"
"""Likewise, where nothing says what that is."""

NO_GRAPHS = "no graph replay is known of this device"
"""Why what is to be recorded is skipped."""


def is_compiled(execution: str) -> bool:
    """Whether it asks for a compiler."""
    return execution in (COMPILE, COMPILE_GRAPH)


def is_recorded(execution: str) -> bool:
    """Whether it asks for the device's graphs."""
    return execution in (GRAPH, COMPILE_GRAPH)
