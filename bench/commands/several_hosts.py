"""The command on one of several hosts, which a launcher has started: it leads, or it follows."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.commands.common import say

if TYPE_CHECKING:
    from bench.running.hosts.leader import Leader


@contextlib.contextmanager
def hosts(suite: str | None, **options: object) -> Iterator[Leader | None]:
    """The leader of several hosts, where this process is it; None of a run on one host.

    suite, options: what the command was given, the same on all hosts. On another host than the
    leader's it follows to the end, and then leaves with the leader's exit code.
    """
    from bench.running.hosts.placement import placement

    found = placement(os.environ)
    if found is None:
        yield None
        return
    from bench.running.hosts import alike
    from bench.running.hosts.leader import leading

    facts = alike.software(suite, options)
    if found.rank:
        from bench.running.hosts.follower import follow

        sys.exit(follow(found, facts, say))
    with leading(found, facts, say) as leader:
        yield leader
