"""DLRM, embedding tables and MLPs that predict a click: training and inference."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from bench import rehearsal
from bench.precision import Precision
from bench.ranks import WHOLE, Part
from bench.records.outcome import Work
from bench.workload import (
    EXECUTIONS,
    Job,
    Parameters,
    Sgd,
    Site,
    Unsupported,
    Within,
    Workload,
)
from bench.workloads._clicks import (
    TABLES,
    TABLES_PATH,
    ClickTrainingJob,
    HybridClickTrainingJob,
    Lookup,
    table_of,
)
from bench.workloads.jobs.jobs import BATCHES, InferenceJob
from bench.workloads.jobs.modes import COPIES, at_most, train_and_infer
from bench.workloads.jobs.seeded import SeededData, build_model
from bench.workloads.jobs.sharded import rows as rows_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.workloads._clicks import Features

DENSE_FEATURES = 13
BOTTOM = (DENSE_FEATURES, 512, 256)
"""Widths of the bottom MLP; it ends at the embedding dimension."""
TOP = (1024, 1024, 512, 256, 1)
"""Widths of the top MLP; it starts at what the interaction gives."""
VECTORS = TABLES + 1
"""What interacts: one vector a table, and what the bottom MLP makes of the dense features."""
PAIRS = VECTORS * (VECTORS - 1) // 2
TWIN_BATCH = 64
TWIN_ROWS = 64
"""So few that a batch looks some rows up twice, and their gradients must add up."""
INDEX_BYTES = 8
HYBRID = "dlrm-hybrid"


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

    Several devices. The tables are sharded over them, whole ones, and the MLPs are replicated, as
    its users run it: section 4 of the paper. A device looks up the rows of the whole batch in its
    tables, whose indices it has, and one all-to-all gives each device the sums for its samples;
    another takes their gradients back.

    Execution. Compiled is what follows the lookup: the MLPs and the interaction, in one graph.

    Weights. Every matrix keeps the size of its input (He et al., arXiv 1502.01852), and the rows
    are so large that their products are of size 1. At the 1/sqrt(rows) of the reference
    implementation they are 1e-3, and the numerics gate would not see the tables. The work is the
    same.
    """

    name = "dlrm"
    version = 1
    modes = train_and_infer(
        TrainParameters,
        InferParameters,
        executions=EXECUTIONS,
        together=("none", HYBRID),
        copies=COPIES,
    )

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
        weights = sum(inputs * outputs for inputs, outputs in _layers(parameters))
        flop = 2 * weights + 2 * VECTORS**2 * parameters.embedding_dim
        if mode == "train":
            flop = 3 * flop - 2 * BOTTOM[0] * BOTTOM[1]
        batch = parameters.batch_size
        lookups = batch * parameters.lookups
        distinct = parameters.rows * (1 - (1 - 1 / parameters.rows) ** lookups)
        stored = TABLES * distinct * parameters.embedding_dim + _mlp_parameters(parameters)
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
        return at_most(parameters, batch_size=TWIN_BATCH, rows=TWIN_ROWS)

    def peak_bytes(self, mode: str, parameters: InferParameters, site: Site) -> int:
        """Of several devices that share the tables, of the one with the most, whose rehearsal
        exchanges shapes; and the buckets that the gradients of its MLPs lie in from step to step.
        """
        import torch

        if site.ranks is None or _tables_here(site) == WHOLE:
            return super().peak_bytes(mode, parameters, site)
        first = msgspec.structs.replace(site.ranks, rank=0)
        cpu = torch.device("cpu")
        stage = msgspec.structs.replace(site, device=cpu, execution="eager", ranks=first)
        building = functools.partial(self.build, mode, parameters, stage)
        buckets = _mlp_parameters(parameters) * site.precision.dtype.itemsize
        return rehearsal.peak_bytes(building) + buckets

    def build(self, mode: str, parameters: InferParameters, site: Site) -> Job:
        """Dense features of normals, rows drawn uniformly, a click for every other sample."""
        data = SeededData(site.seed)
        construct = functools.partial(_construct, parameters)
        tables = _tables_here(site)

        def cut(path: str, value: Tensor) -> Tensor:
            return tables.of(value).clone() if path == TABLES_PATH and tables.count > 1 else value

        tables = msgspec.structs.replace(tables, unit=parameters.rows)
        model = build_model(construct, _parameters(parameters), data, site, cut=cut)
        inputs = [_features(parameters, data, site) for _ in range(BATCHES)]
        if not isinstance(parameters, TrainParameters):
            return InferenceJob(model, _logits, inputs, site, {})
        batches = [
            (features, rows_of(data.integers(0, 2, (parameters.batch_size,)), site))
            for features in inputs
        ]
        if tables.count > 1:
            return HybridClickTrainingJob(model, batches, site, tables, _parameters(parameters))
        return ClickTrainingJob(model, batches, site, Lookup(table_of(model)))


def _bottom(parameters: InferParameters) -> list[int]:
    return [*BOTTOM, parameters.embedding_dim]


def _top(parameters: InferParameters) -> list[int]:
    return [parameters.embedding_dim + PAIRS, *TOP]


def _parameters(parameters: InferParameters) -> int:
    """Rows of the tables, and matrices and biases of the MLPs."""
    return TABLES * parameters.rows * parameters.embedding_dim + _mlp_parameters(parameters)


def _mlp_parameters(parameters: InferParameters) -> int:
    return sum((inputs + 1) * outputs for inputs, outputs in _layers(parameters))


def _layers(parameters: InferParameters) -> list[tuple[int, int]]:
    """Widths of what goes into each layer of the MLPs, and of what comes out."""
    return [*itertools.pairwise(_bottom(parameters)), *itertools.pairwise(_top(parameters))]


def _features(parameters: InferParameters, data: SeededData, site: Site) -> Features:
    """One batch's dense features, and the rows that it looks up, counted over all tables."""
    import torch

    batch = parameters.batch_size
    dense = data.normal((batch, DENSE_FEATURES), site.precision.dtype)
    indices = data.integers(0, parameters.rows, (batch, TABLES, parameters.lookups))
    indices += torch.arange(TABLES)[:, None] * parameters.rows
    tables = _tables_here(site)
    if tables.count == 1:
        return rows_of(dense, site), rows_of(indices, site)
    here = tables.rows(TABLES)
    mine = indices[:, here] - here.start * parameters.rows
    return rows_of(dense, site), mine.to(site.device)


def _tables_here(site: Site) -> Part:
    """Which of the tables this rank has, in tables."""
    ranks = site.ranks
    if ranks is None or ranks.parallelism.scheme != HYBRID:
        return WHOLE
    if ranks.size > TABLES:
        raise Unsupported(f"{TABLES} tables are not sharded over {ranks.size} devices")
    return Part(ranks.rank, ranks.size)


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
    # `@`, not `bmm`: the same product, but backward may then not add the second gradient, which is
    # transposed, onto the first in place. On a CPU that takes twice as long as into a new tensor.
    products = (vectors @ vectors.mT).flatten(1)
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
