"""DLRM's training: rows are looked up and updated by themselves, on one device or on several.

Of several each has some of the tables and all of the MLPs: see `bench.workloads.dlrm`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from bench.ranks import WHOLE, Part, Ranks
from bench.rehearsal import has_no_values
from bench.workload import LookedUp, Site, Training
from bench.workloads.jobs.gradients import gradient_norm
from bench.workloads.jobs.jobs import TrainingJob

if TYPE_CHECKING:
    from torch import Tensor, nn

    Features = tuple[Tensor, Tensor]
    """Dense features [B, 13] and rows of the tables to look up [B, 26, L], int64."""

TABLES = 26
"""Categorical features of the Criteo data set, and so of every DLRM benchmark."""
TABLES_PATH = "tables.weight"
LEARNING_RATE = 2**-13
"""Two steps lower the loss by 5 %: enough for the numerics gate to see that they were taken."""


def table_of(model: nn.Module) -> Tensor:
    """All tables that are here, end to end."""
    return model.get_parameter(TABLES_PATH)


class Lookup:
    """Gathers rows of the tables so that they, and not the tables, get a gradient."""

    def __init__(self, tables: Tensor) -> None:
        """All tables end to end, [26 R, d]."""
        self._tables = tables.detach()
        self.stepped: Callable[[], None] | None = None
        """Has the rows of the last forward updated as a step has it; None: by `update` alone."""
        self.leaves: list[Tensor] = []
        """The rows that the last forward looked up, [B, 26, L, d]."""

    def __call__(self, model: nn.Module, features: Features) -> Tensor:
        """The forward in training."""
        from torch.nn import functional

        dense, self._indices = features
        rows = functional.embedding(self._indices, self._tables).requires_grad_()
        self.leaves = [rows]
        logits: Tensor = model(dense, self._gathered(rows))
        return logits

    def _gathered(self, rows: Tensor) -> Tensor:
        """What of these rows goes into the model."""
        return rows

    def looked_up(self) -> LookedUp | None:
        """The rows of the last step, as they were, with their gradients."""
        for rows in self.leaves:
            if rows.grad is not None:
                return LookedUp(
                    tables=self._tables,
                    rows=self._indices.flatten(),
                    before=rows.detach().flatten(0, -2),
                    gradients=rows.grad.flatten(0, -2),
                    enlarged=self._enlarged,
                )
        return None

    @contextlib.contextmanager
    def _enlarged(self, lookups: Any, times: float) -> Iterator[LookedUp | None]:
        """See `LookedUp.enlarged`. What a recording holds is not what runs here."""
        import torch

        found = self.looked_up()
        assert found is not None
        chosen = torch.from_numpy(lookups).to(self._tables.device)
        held = self._indices, self.leaves
        self._indices = found.rows[chosen]
        before = self._tables[self._indices]
        before.grad = found.gradients[chosen] * times
        self.leaves = [before]
        try:
            (self.stepped or self.update)()
            yield self.looked_up()
        finally:
            self._tables[self._indices] = before
            self._indices, self.leaves = held

    def update(self) -> None:
        """SGD on the rows that have a gradient."""
        for rows in self.leaves:
            if rows.grad is not None:
                gradient = rows.grad.flatten(0, -2)
                self._tables.index_add_(0, self._indices.flatten(), gradient, alpha=-LEARNING_RATE)


class ExchangedLookup(Lookup):
    """Looks up the rows of all samples in the tables of this rank [B, T, L], and exchanges their
    sums; dense features are those of this rank's samples [B/N, 13]."""

    def __init__(self, tables: Tensor, ranks: Ranks) -> None:
        """tables: this rank's, end to end."""
        super().__init__(tables)
        self._ranks = ranks

    def _gathered(self, rows: Tensor) -> Tensor:
        """Of rows of all samples in its tables [B, T, L, d], sums of its own samples."""
        return exchanged(rows.sum(-2), self._ranks)[:, :, None]


class ClickTrainingJob(TrainingJob):
    """The MLPs are updated by the optimizer, the rows of the tables in the same step after them."""

    def __init__(
        self, model: nn.Module, batches: list[tuple[Features, Tensor]], site: Site, lookup: Lookup
    ) -> None:
        """Hooks the update of the rows to the optimizer's step."""
        self._lookup = lookup
        super().__init__(
            model,
            self._lookup,
            [*batches],
            "plain-sgd",
            LEARNING_RATE,
            site,
            {"table update": "looked-up rows only, index_add_"},
            loss=binary_cross_entropy,
        )
        self._optimizer.register_step_post_hook(lambda *_: self._lookup.update())
        self._lookup.stepped = self._update_rows

    def _update_rows(self) -> None:
        """The optimizer's step, in which no weight of its own moves."""
        held = [(weight, weight.grad) for weight in self._model.parameters()]
        for weight, _ in held:
            weight.grad = None
        self._optimizer.step()
        for weight, gradient in held:
            weight.grad = gradient

    def training(self) -> Training:
        """With the rows, which have no optimizer."""
        return msgspec.structs.replace(super().training(), looked_up=self._lookup.looked_up)

    def _leaves_besides(self) -> Iterable[Tensor]:
        return self._lookup.leaves


class HybridClickTrainingJob(ClickTrainingJob):
    """Some of the tables, and all of the MLPs, whose gradients are averaged."""

    def __init__(
        self,
        model: nn.Module,
        batches: list[tuple[Features, Tensor]],
        site: Site,
        tables: Part,
        parameters: int,
    ) -> None:
        """tables: which are here; parameters: of the whole model."""
        from torch.nn.parallel import DistributedDataParallel

        assert site.ranks is not None
        self._ranks, self._tables = site.ranks, tables
        whole: Any = DistributedDataParallel
        whole._set_params_and_buffers_to_ignore_for_model(model, [TABLES_PATH])
        super().__init__(model, batches, site, ExchangedLookup(table_of(model), site.ranks))
        here = tables.rows(TABLES * tables.unit)
        count = (here.stop - here.start) // tables.unit
        self.facts = {
            **self.facts,
            "parameters": str(parameters),
            "tables": f"{count} of {TABLES} on rank {site.ranks.rank}; sums by all-to-all",
        }

    def training(self) -> Training:
        """As of any job; of the tables, which are here."""
        training = super().training()
        (group,) = training.optimizer.param_groups
        table = table_of(self._model)
        parts = tuple(self._tables if weight is table else WHOLE for weight in group["params"])
        return msgspec.structs.replace(training, parts=parts)

    def _gradient_norm(self) -> Tensor:
        """Each rank's rows, and the MLPs once."""
        mlps = gradient_norm(self._model)
        rows = gradient_norm(self._model, self._lookup.leaves) ** 2 - mlps**2
        return (mlps**2 + self._ranks.size * self._ranks.mean(rows)).sqrt()


def exchanged(sums: Tensor, ranks: Ranks) -> Tensor:
    """Of sums of all samples in this rank's tables [B, T, d], those of its samples [B/N, 26, d].

    Backwards their gradients return, over the number of ranks: each has the mean loss of its own
    samples, and the loss is the mean of those. In a rehearsal nothing is sent.
    """
    import torch
    import torch.distributed as dist

    samples, _, width = sums.shape
    mine = samples // ranks.size
    parts = [Part(rank, ranks.size).rows(TABLES) for rank in range(ranks.size)]
    received = [mine * (part.stop - part.start) * width for part in parts]
    sent = [sums[:mine].numel()] * ranks.size

    def exchange(found: Tensor, given: Tensor, to: list[int], of: list[int]) -> None:
        if not has_no_values(given):
            dist.all_to_all_single(found, given, to, of, group=ranks.group)

    class Exchange(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, given: Tensor) -> Tensor:
            found = given.new_empty(sum(received))
            exchange(found, given.flatten(), received, sent)
            by_rank = [one.view(mine, -1, width) for one in found.split(received)]
            return torch.cat(by_rank, dim=1)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            widths = [part.stop - part.start for part in parts]
            given = [one.flatten() for one in gradients[0].split(widths, dim=1)]
            found = gradients[0].new_empty(sum(sent))
            exchange(found, torch.cat(given), sent, received)
            return found.view(samples, -1, width) / ranks.size

    found: Tensor = Exchange.apply(sums.contiguous())  # type: ignore[no-untyped-call]
    return found


def binary_cross_entropy(logits: Tensor, clicks: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits [B] and clicks [B], 0 or 1, in float32 or wider."""
    import torch
    from torch.nn import functional

    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss: Tensor = functional.binary_cross_entropy_with_logits(wide, clicks.to(wide.dtype))
    return loss
