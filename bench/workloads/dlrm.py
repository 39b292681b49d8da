"""DLRM, embedding tables and MLPs that predict a click: training and inference."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from bench.precision import Precision
from bench.records.outcome import Work
from bench.workload import (
    Job,
    LookedUp,
    Parameters,
    Sgd,
    Site,
    Training,
    Within,
    Workload,
)
from bench.workloads._jobs import BATCHES, InferenceJob, TrainingJob
from bench.workloads._modes import train_and_infer
from bench.workloads._seeded import SeededData, build_model, place

if TYPE_CHECKING:
    from torch import Tensor, nn

    Features = tuple[Tensor, Tensor]
    """Dense features [B, 13] and rows of the tables to look up [B, 26, L], int64."""

TABLES = 26
"""Categorical features of the Criteo data set, and so of every DLRM benchmark."""
DENSE_FEATURES = 13
BOTTOM = (DENSE_FEATURES, 512, 256)
"""Widths of the bottom MLP; it ends at the embedding dimension."""
TOP = (1024, 1024, 512, 256, 1)
"""Widths of the top MLP; it starts at what the interaction gives."""
VECTORS = TABLES + 1
"""What interacts: one vector a table, and what the bottom MLP makes of the dense features."""
PAIRS = VECTORS * (VECTORS - 1) // 2
LEARNING_RATE = 2**-13
"""Two steps lower the loss by 5 %: enough for the numerics gate to see that they were taken."""
TWIN_BATCH = 64
TWIN_ROWS = 64
"""So few that a batch looks some rows up twice, and their gradients must add up."""
INDEX_BYTES = 8


class InferParameters(Parameters, frozen=True, kw_only=True):
    """26 tables of one size; rows drawn uniformly."""

    batch_size: Annotated[int, Within(1, 2**20)] = 2048
    rows: Annotated[int, Within(2, 10**8)] = 20_000
    """Of each table."""
    embedding_dim: Annotated[int, Within(4, 1024)] = 128
    lookups: Annotated[int, Within(1, 128)] = 1
    """Rows that a sample looks up in each table; their sum is what interacts."""


class TrainParameters(InferParameters, frozen=True, kw_only=True):
    """26 tables of one size; rows drawn uniformly; SGD without momentum or decay."""

    optimizer: Sgd = "sgd"


class Dlrm(Workload):
    """Naumov et al., arXiv 1906.00091, with the MLPs of MLPerf Training's DLRM (v0.7 to v2.1).

    13 dense features go through a bottom MLP; each of 26 tables gives the sum of the rows that a
    sample looks up; every two of the 27 vectors are multiplied; the products and the bottom's
    output go through a top MLP to one logit, whose binary cross-entropy is the loss.

    Optimizer. Plain SGD, as in that benchmark and in the reference implementation. Without
    momentum and decay a row that was not looked up does not change, so a step may touch the others
    only, and gives the same numbers as one over whole tables. (Adagrad, of MLPerf's later DCNv2,
    is another model's, and would double the tables' memory.)

    Gradients. A dense gradient of the tables would be zeroed, written and read in full, a hundred
    times the bytes of the rows that matter: nobody trains so. Torch's sparse gradients
    (`EmbeddingBag(sparse=True)`) are what the reference implementation has, but sparse tensors
    are missing from most accelerators' torch builds. So the step here is spelled out, in
    operators that all have: the looked-up rows are gathered as a leaf of their own, get a dense
    gradient, and are updated by one `index_add_`, which adds the updates of a row that was looked
    up twice. Production libraries (FBGEMM's table-batched embeddings) do the same in one kernel,
    and lay the tables end to end in one tensor, as here: one gather, not 26.

    Execution. Compiled is what follows the lookup: the MLPs and the interaction, in one graph.

    Weights. Every matrix keeps the size of its input (He et al., arXiv 1502.01852), and the rows
    are so large that their products are of size 1. At the 1/sqrt(rows) of the reference
    implementation they are 1e-3, and the numerics gate would not see the tables. The work is the
    same.
    """

    name = "dlrm"
    version = 1
    modes = train_and_infer(TrainParameters, InferParameters)

    def work(self, mode: str, parameters: InferParameters, precision: Precision) -> Work:
        """2 FLOP for each weight of an MLP, and 2 * 27^2 d for the products of every two vectors.

        The products are counted as they are computed, the whole 27x27 matrix, not the 351 that
        are kept. Sums of looked-up rows are left out: embeddings are bytes. Training is three times
        that (gradients of inputs and of weights cost a forward each), less the gradient of the
        dense features, which nothing needs.

        Bytes that must move, each once, where nothing else leaves the chip: the distinct rows
        that the batch looks up, R (1 - (1 - 1/R)^(B L)) of each table of R on average; the MLPs'
        matrices and biases; dense features and indices. Training writes rows and MLPs back.
        Source: Naumov et al., arXiv 1906.00091, sections 2 and 3 (shapes); the mean number of
        distinct draws is that of the coupon collector.
        """
        layers = [*itertools.pairwise(_bottom(parameters)), *itertools.pairwise(_top(parameters))]
        weights = sum(inputs * outputs for inputs, outputs in layers)
        biases = sum(outputs for _, outputs in layers)
        flop = 2 * weights + 2 * VECTORS**2 * parameters.embedding_dim
        if mode == "train":
            flop = 3 * flop - 2 * BOTTOM[0] * BOTTOM[1]
        batch = parameters.batch_size
        lookups = batch * parameters.lookups
        distinct = parameters.rows * (1 - (1 - 1 / parameters.rows) ** lookups)
        stored = TABLES * distinct * parameters.embedding_dim + weights + biases
        passes = 2 if mode == "train" else 1
        moved = (passes * stored + batch * DENSE_FEATURES) * precision.element_bytes
        return Work(
            items=batch,
            unit="sample",
            flop=batch * flop,
            moved_bytes=round(moved + TABLES * lookups * INDEX_BYTES),
        )

    def twin(self, mode: str, parameters: InferParameters) -> InferParameters:
        """The same widths, 64 samples, tables of 64 rows."""
        return msgspec.structs.replace(
            parameters,
            batch_size=min(parameters.batch_size, TWIN_BATCH),
            rows=min(parameters.rows, TWIN_ROWS),
        )

    def build(self, mode: str, parameters: InferParameters, site: Site) -> Job:
        """Dense features of normals, rows drawn uniformly, a click for every other sample."""
        data = SeededData(site.seed)
        construct = functools.partial(_construct, parameters)
        model = build_model(construct, _parameters(parameters), data, site)
        inputs = [_features(parameters, data, site) for _ in range(BATCHES)]
        if not isinstance(parameters, TrainParameters):
            return InferenceJob(model, _logits, inputs, site, {})
        batches = [
            (features, data.integers(0, 2, (parameters.batch_size,)).to(site.device))
            for features in inputs
        ]
        return ClickTrainingJob(model, batches, site)


class Lookup:
    """Gathers rows of the tables so that they, and not the tables, get a gradient."""

    def __init__(self, tables: Tensor) -> None:
        """All tables end to end, [26 R, d]."""
        self._tables = tables.detach()
        self.leaves: list[Tensor] = []
        """The rows that the last forward looked up, [B, 26, L, d]."""

    def __call__(self, model: nn.Module, features: Features) -> Tensor:
        """The forward in training."""
        from torch.nn import functional

        dense, self._indices = features
        rows = functional.embedding(self._indices, self._tables).requires_grad_()
        self.leaves = [rows]
        logits: Tensor = model(dense, rows)
        return logits

    def looked_up(self) -> LookedUp | None:
        """The rows of the last step, as they were, with their gradients."""
        for rows in self.leaves:
            if rows.grad is not None:
                return LookedUp(
                    tables=self._tables,
                    rows=self._indices.flatten(),
                    before=rows.detach().flatten(0, -2),
                    gradients=rows.grad.flatten(0, -2),
                )
        return None

    def update(self) -> None:
        """SGD on the rows that have a gradient."""
        for rows in self.leaves:
            if rows.grad is not None:
                gradient = rows.grad.flatten(0, -2)
                self._tables.index_add_(0, self._indices.flatten(), gradient, alpha=-LEARNING_RATE)


class ClickTrainingJob(TrainingJob):
    """The MLPs are updated by the optimizer, the rows of the tables in the same step after them."""

    def __init__(
        self, model: nn.Module, batches: list[tuple[Features, Tensor]], site: Site
    ) -> None:
        """Hooks the update of the rows to the optimizer's step."""
        tables: Any = model
        self._lookup = Lookup(tables["tables"].weight)
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

    def training(self) -> Training:
        """With the rows, which have no optimizer."""
        return msgspec.structs.replace(super().training(), looked_up=self._lookup.looked_up)

    def _leaves_besides(self) -> Iterable[Tensor]:
        return self._lookup.leaves


def binary_cross_entropy(logits: Tensor, clicks: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits [B] and clicks [B], 0 or 1, in float32 or wider."""
    import torch
    from torch.nn import functional

    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss: Tensor = functional.binary_cross_entropy_with_logits(wide, clicks.to(wide.dtype))
    return loss


def _bottom(parameters: InferParameters) -> list[int]:
    return [*BOTTOM, parameters.embedding_dim]


def _top(parameters: InferParameters) -> list[int]:
    return [parameters.embedding_dim + PAIRS, *TOP]


def _parameters(parameters: InferParameters) -> int:
    """Rows of the tables, and matrices and biases of the MLPs."""
    layers = [*itertools.pairwise(_bottom(parameters)), *itertools.pairwise(_top(parameters))]
    mlps = sum((inputs + 1) * outputs for inputs, outputs in layers)
    return TABLES * parameters.rows * parameters.embedding_dim + mlps


def _features(parameters: InferParameters, data: SeededData, site: Site) -> Features:
    """One batch's dense features, and the rows that it looks up, counted over all tables."""
    import torch

    batch = parameters.batch_size
    dense = data.normal((batch, DENSE_FEATURES), site.precision.dtype)
    indices = data.integers(0, parameters.rows, (batch, TABLES, parameters.lookups))
    indices += torch.arange(TABLES)[:, None] * parameters.rows
    return place(dense, site), indices.to(site.device)


def _logits(model: nn.Module, features: Features) -> Tensor:
    """The forward in inference: [B]."""
    parts: Any = model
    dense, indices = features
    logits: Tensor = model(dense, parts["tables"](indices))
    return logits


def _interact(model: nn.Module, dense: Tensor, rows: Tensor) -> Tensor:
    """Dense features [B, 13] and looked-up rows [B, 26, L, d] to logits [B]."""
    import torch

    parts: Any = model
    bottom = parts["bottom"](dense)
    vectors = torch.cat((bottom[:, None], rows.sum(-2).to(bottom.dtype)), dim=1)
    products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
    pairs = products.index_select(1, parts["pairs"].indices)
    logits: Tensor = parts["top"](torch.cat((bottom, pairs), dim=1)).squeeze(-1)
    return logits


def _construct(parameters: InferParameters) -> nn.Module:
    """`bottom`, `tables`, `top`, and in `pairs` where the products below the diagonal lie."""
    import torch
    from torch import nn

    def mlp(widths: list[int], last: nn.Module) -> nn.Sequential:
        steps: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layer = nn.Linear(inputs, outputs)
            nn.init.normal_(layer.weight, std=(2 / inputs) ** 0.5)
            nn.init.zeros_(layer.bias)
            steps += [layer, nn.ReLU()]
        return nn.Sequential(*steps[:-1], last)

    tables = nn.Embedding(TABLES * parameters.rows, parameters.embedding_dim)
    nn.init.normal_(tables.weight, std=parameters.lookups**-0.5 * parameters.embedding_dim**-0.25)
    pairs = nn.Module()
    first, second = torch.tril_indices(VECTORS, VECTORS, offset=-1)
    pairs.register_buffer("indices", first * VECTORS + second, persistent=False)

    class Dlrm(nn.ModuleDict):
        def forward(self, dense: Tensor, rows: Tensor) -> Tensor:
            return _interact(self, dense, rows)

    return Dlrm(
        {
            "bottom": mlp(_bottom(parameters), nn.ReLU()),
            "tables": tables,
            "top": mlp(_top(parameters), nn.Identity()),
            "pairs": pairs,
        }
    )


WORKLOAD = Dlrm()
