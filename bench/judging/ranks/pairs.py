"""A map of links: how fast each two ranks exchange messages, all launches taken together.

Nothing is judged: a pair may be slow by rights, of two hosts, say, whose median is told apart. The
slowest is named with its share of the median of all, and the map shows what it has in common with
others.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence

import msgspec

from bench import units
from bench.records.outcome import Measured


class Pairs(msgspec.Struct, frozen=True, kw_only=True):
    """Of a case of `collective pairs`."""

    message_bytes: int
    """Of one message, one way; both ways go at once."""
    bytes_per_second: tuple[tuple[float | None, ...], ...]
    """[rank][rank], one way, as the quicker of the two saw it; median over launches. Symmetric;
    None with itself."""
    median: float
    """Bytes/s, over all pairs."""
    slowest: tuple[int, int]
    launches: int
    hosts: tuple[int, ...] = ()
    """Of each rank its host, 0-based."""
    machines: int | None = None
    """That the hosts run on, where they are fewer: containers share one."""

    @property
    def slowest_share(self) -> float:
        """The slowest pair's speed over the median of all."""
        return (self.bytes_per_second[self.slowest[0]][self.slowest[1]] or 0.0) / self.median

    @property
    def words(self) -> str:
        """In a line."""
        first, second = self.slowest
        size = units.memory(self.message_bytes)
        rate = units.prefixed(self.bytes_per_second[first][second] or 0.0, "B/s")
        several = len(set(self.hosts)) > 1
        on = "" if self.machines is None else f" on {units.counted(self.machines, 'machine')}"
        who = f"ranks {first} and {second}"
        if several:
            who += f" (hosts {self.hosts[first]} and {self.hosts[second]})"
        if len(self.bytes_per_second) == 2:
            return f"{who} exchange {size} at {rate} each way{on}"
        median = units.prefixed(self.median, "B/s")
        medians = f"median; {'; '.join(self._by_hosts(on))}" if several else "median"
        return (
            f"two ranks exchange {size} at {median} each way ({medians}); "
            f"slowest: {who}, {rate} ({self.slowest_share:.0%} of it)"
        )

    def _by_hosts(self, on: str) -> Iterator[str]:
        """Medians of the pairs of one host and of those of two: what joins them is another link."""
        pairs = list(itertools.combinations(range(len(self.hosts)), 2))
        for words, apart in (("within a host", False), (f"between hosts{on}", True)):
            rates = [
                self.bytes_per_second[i][j] or 0.0
                for i, j in pairs
                if (self.hosts[i] != self.hosts[j]) == apart
            ]
            if rates:
                yield f"{words} {units.prefixed(statistics.median(rates), 'B/s')}"


def pairs(outcomes: Sequence[Measured], machines: int | None = None) -> Pairs | None:
    """Of the launches of one case, on so many machines; None where ranks did not meet in pairs."""
    maps = [[share.peer_ns for share in one.ranks] for one in outcomes if one.ranks]
    maps = [one for one in maps if all(one)]
    if not maps:
        return None
    ranks = range(len(maps[0]))
    # A step sends a message to each other rank.
    size = outcomes[0].work.items // (len(ranks) - 1)
    seconds = {
        # Who comes late sees no waiting for the other.
        (i, j): statistics.median(min(one[i][j], one[j][i]) for one in maps) / 1e9
        for i, j in itertools.combinations(ranks, 2)
    }
    slowest = max(seconds, key=lambda pair: seconds[pair])
    return Pairs(
        message_bytes=size,
        bytes_per_second=tuple(
            tuple(None if i == j else size / seconds[min(i, j), max(i, j)] for j in ranks)
            for i in ranks
        ),
        median=size / statistics.median(seconds.values()),
        slowest=slowest,
        launches=len(maps),
        hosts=tuple(share.host for share in outcomes[0].ranks),
        machines=machines,
    )
