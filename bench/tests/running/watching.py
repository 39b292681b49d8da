"""A monitor that sees nothing, and says of what."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bench.running.monitor import Monitor
from bench.running.sampler import Order
from bench.telemetry.joined import Sight


class Watching(Monitor):
    """Starts no process; notes what it is asked."""

    def __init__(self, where: str = "dark") -> None:
        super().__init__(Order(backend="x", indices=()), {})
        self.where = where
        self.asked: list[tuple[set[int], dict[int, int | None]]] = []
        self.said: list[str] = []

    def start(self) -> None:
        self.said.append("start")

    def lets_go(self) -> None:
        self.said.append("lets go")

    def saw(
        self, workers: Collection[int], first_steps_ns: Mapping[int, int | None]
    ) -> tuple[Sight, ...]:
        self.asked.append((set(workers), dict(first_steps_ns)))
        return tuple(
            Sight(index=index, telemetry=f"{self.where} {index}") for index in first_steps_ns
        )

    def close(self) -> None:
        self.said.append("close")
