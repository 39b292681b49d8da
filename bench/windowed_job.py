"""Jobs whose steps build on one another, and start over after a window of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.workload import Job

if TYPE_CHECKING:
    from torch import Tensor


class WindowedJob(Job):
    """What such a job offers to let each of its steps be proved."""

    @abstractmethod
    def begin(self, place: int = 0, turned: int = 0) -> int:
        """Has the next step be the one at a place of the window, of tokens so many further on in
        the vocabulary than those that usually come first; gives how many are left from there."""

    @abstractmethod
    def retraced(self) -> Mapping[str, Sequence[Tensor]]:
        """Takes a step; gives its `outputs` as it is written, computed besides: of the same tokens,
        and what the steps before it left."""
