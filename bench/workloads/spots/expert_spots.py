"""Experts at the timed size, held to float64: the gate's small twin has none to choose among.

Each token of the twin goes to all its experts, so that rounding changes no choice. A wrong choice,
a group of one row or none, and a product that drops a group are seen here alone: in one step more
that nobody times, as it is written, in the first and the last layer with experts. What is looked at
is copied from there and computed on the host by the definition: for some tokens the choice and its
weights from the router's own, for a few what their experts make of them, chosen as the device did.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.records.reason import of_error, reason
from bench.workload import Job, Look, Site
from bench.workloads.layers.mxfp4 import NARROW
from bench.workloads.layers.routing import EXPERTS
from bench.workloads.spots.spots import Spot, allowed, as_written, look, rows_of

if TYPE_CHECKING:
    from torch import Tensor, nn

FACT = "experts at the timed size"
CHOICE = f"choice of {FACT}"
"""These facts say why it was not looked at, where it could not be."""
ROUTERS = ("gate", "router")
"""What transformers calls what chooses among a layer's experts."""
TOKENS = 32
"""Whose choice is looked at."""
MOST_SUMS = 4
"""Of those, whose experts are computed on the host, in each layer."""
MOST_WEIGHTS = 2**29
"""So many weights of experts on the host at most, of both layers: half a second. One token of the
last layer is computed whatever it takes."""
PIECE = 2**18
"""Of them, widened at a time: what a cache holds."""
SUMMED = 256
"""Terms of the sums whose error `TOLERANCES` says."""


def looks(job: Job, model: Any, step: Callable[[], object], site: Site) -> Iterator[Look]:
    """Whether experts are chosen rightly, and give what they should, in a step of a job's model.

    step: one as it is written, without gradients. Of a model without experts none is taken. What
    fails here costs no figure: the job's facts say that nobody saw it.
    """
    import torch

    if "experts" not in job.facts:
        return
    layers: list[Layer] = []
    try:
        layers = _layers(model, site)
        with ExitStack() as hooks, torch.no_grad(), as_written(site):
            for layer in layers:
                hooks.enter_context(layer.experts.register_forward_pre_hook(layer.before))
                hooks.enter_context(layer.experts.register_forward_hook(layer.after))
            step()
    except Exception as error:  # noqa: BLE001 - a look that fails is none
        absent = of_error(error)
    else:
        absent = "" if layers else "the model has no module of that name"
    absent = absent or next((layer.absent for layer in layers if layer.absent), "")
    if absent:
        job.facts = {**job.facts, FACT: f"not observable: {reason(absent)}"}
    if unruled := next((layer.unruled for layer in layers if layer.unruled), ""):
        job.facts = {**job.facts, CHOICE: f"not observable: no rule of {unruled} is known"}
    choices = [layer.wrong for layer in layers if layer.wrong is not None]
    if choices:
        asked = "the best by their scores, with their weights"
        yield Look(
            what=CHOICE,
            asked=asked,
            seen=next(filter(None, choices), asked),
            then="A kernel chooses wrongly: report it, and try another version of its library",
        )
    if spots := [spot for layer in layers for spot in layer.spots]:
        yield look("experts", spots, _most(site, "experts", len(spots[0].found)))


class Layer:
    """Experts and their router: notes what they get and give in the first call, and judges it."""

    def __init__(self, path: str, experts: Any, router: Any, last: bool, site: Site) -> None:
        """path: of the module that has both; last: whether a token is computed whatever it costs.

        router: None where the library has one of another kind.
        """
        self.path, self.experts, self.router = path, experts, router
        self._last, self._site = last, site
        self._given: tuple[list[int], Tensor, Tensor, Tensor] | None = None
        self.wrong: str | None = None
        """What is wrong in the choice; None where it was not seen."""
        self.unruled = ""
        """The kind of its router, where it is not known how that chooses."""
        self.spots: list[Spot] = []
        self.absent = ""
        """Why it could not be seen."""

    def before(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        """Notes of some tokens what they are, their experts and weights; later layers may write
        over them. Nothing is raised: other ranks wait in this step."""
        if self._given is None and not self.absent:
            self._try(lambda: self._choice(*given[:3]))

    def after(self, _: nn.Module, given: object, output: Tensor) -> None:
        """Computes a few tokens' experts: here, where sharded weights are whole."""
        if self._given is not None and not (self.spots or self.wrong or self.absent):
            self._try(lambda: self._sums(output))

    def _try(self, see: Callable[[], None]) -> None:
        try:
            see()
        except Exception as error:  # noqa: BLE001 - a look that fails is none
            self.absent = of_error(error)

    def _choice(self, hidden: Tensor, index: Tensor, weights: Tensor) -> None:
        index = index.detach().cpu().long()
        experts = self.experts.num_experts
        if wrong := _not_a_choice(index, experts):
            self.wrong = f"{wrong} in {self.path}"
            return
        tokens = _tokens(index, self._site.seed)
        rows, by = rows_of(hidden, tokens), rows_of(weights, tokens)
        self._given = tokens, rows, index[tokens], by
        rule, most = _rule(self.router, experts), _most(self._site, "output", rows.shape[1])
        if rule is None:
            self.unruled = type(self.router).__name__
            return
        found = rule.complaint(*self._given[1:], most)
        self.wrong = f"token {tokens[found[0]]} of {self.path} {found[1]}" if found else ""

    def _sums(self, output: Tensor) -> None:
        import torch

        assert self._given is not None
        experts = self.experts
        if NARROW in vars(experts) or getattr(experts, "has_post_expert_norm", False):
            return  # the gate multiplies by each of these matrices; no models of ours have the norm
        tokens, rows, index, by = self._given
        each = index.shape[1] * sum(x[0].numel() for x in (experts.gate_up_proj, experts.down_proj))
        few = max(self._last, min(MOST_SUMS, MOST_WEIGHTS // (2 * each)))
        for at, token in enumerate(tokens[:few]):
            parts = [
                weight * _expert(experts, rows[at], int(expert))
                for expert, weight in zip(index[at], by[at], strict=True)
            ]
            every = torch.stack(parts)
            found = rows_of(output, [token])[0]
            place = f"token {token} of {self.path}"
            self.spots.append(Spot(place, found, every.sum(0), every.square().sum(0).sqrt()))


class Rule(NamedTuple):
    """How a router chooses among its experts, from [E, H] in float64 on the host."""

    kind: str
    """The library's name of its class."""
    matrix: Tensor
    bias: Tensor
    """[E], added to its scores; of DeepSeek-V3 added for the choice alone."""
    groups: int
    best_groups: int
    """Of so many groups of experts, so many have all that are chosen."""
    normed: bool
    factor: float

    def complaint(
        self, rows: Tensor, index: Tensor, weights: Tensor, most: float
    ) -> tuple[int, str] | None:
        """Which of the tokens [n, H] has a wrong choice [n, k] or weights [n, k], and how.

        most: of a score's error, beside the root of the squares of its terms and itself: it is a
        sum, and then rounded. So each lies within its slack, and so do the bounds of a choice.
        """
        import torch

        sigmoid = self.kind == "DeepseekV3TopkRouter"
        scores = rows @ self.matrix.T
        roots = (rows.square() @ self.matrix.square().T).sqrt()
        if not sigmoid:
            scores, roots = scores + self.bias, roots + self.bias.abs()
        slack = most * (roots + scores.abs())
        if sigmoid:  # of slope 1/4 at most; computed in float32
            ranked = scores.sigmoid() + self.bias
            low_high = [ranked + sign * (slack / 4 + 2e-6 * (1 + ranked.abs())) for sign in (-1, 1)]
        else:
            low_high = [scores - slack, scores + slack]
        low, high = self._sure(*low_high)
        chosen = index.shape[1]
        least = low.sort(1, descending=True).values[:, chosen - 1]
        of_chosen = high.gather(1, index)
        wrong = ~((of_chosen >= least[:, None]) & (of_chosen > -math.inf)).all(1)
        if wrong.any():
            at = int(wrong.nonzero()[0])
            place = int(of_chosen[at].argmin())
            score = float(scores[at, index[at, place]])
            better = int((scores[at] > score).sum())
            told = f"to expert {int(index[at, place])}, than which {better} score more"
            return at, f"goes {told}, as one of {chosen}"
        expected = self._weights(scores, index)
        off = (weights - expected).abs()
        near = torch.expm1(2 * slack.max(1).values)[:, None] + most
        wrong = ~(off <= near * expected).all(1)
        if wrong.any():
            at = int(wrong.nonzero()[0])
            worst = int((off[at] / expected[at]).nan_to_num(math.inf).argmax())
            figures = f"{float(weights[at, worst]):.3g} for {float(expected[at, worst]):.3g}"
            return at, f"has a weight of {figures} at expert {int(index[at, worst])}"
        return None

    def _sure(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds [n, E] of what is ranked, where a group must surely be chosen, or may be."""
        import torch

        if self.groups == self.best_groups:
            return low, high
        shape = len(low), self.groups, -1
        least, most = (
            x.view(shape).sort(-1, descending=True).values[..., :2].sum(-1) for x in (low, high)
        )
        others = ~torch.eye(self.groups, dtype=torch.bool)
        # [n, group, other]: how many others may be before it, and how many surely are.
        may = ((most[:, None, :] >= least[:, :, None]) & others).sum(-1)
        must = ((least[:, None, :] > most[:, :, None]) & others).sum(-1)
        inside, outside = (
            x[..., None].expand(*x.shape, low.shape[1] // self.groups).flatten(1)
            for x in (may < self.best_groups, must >= self.best_groups)
        )
        return low.masked_fill(~inside, -math.inf), high.masked_fill(outside, -math.inf)

    def _weights(self, scores: Tensor, index: Tensor) -> Tensor:
        if self.kind == "DeepseekV3TopkRouter":
            every = scores.sigmoid()
        elif self.kind == "GptOssTopKRouter":
            return scores.gather(1, index).softmax(1)
        else:
            every = scores.softmax(1)
        chosen = every.gather(1, index)
        return self.factor * (chosen / chosen.sum(1, keepdim=True) if self.normed else chosen)


def _rule(router: Any, experts: int) -> Rule | None:
    """None of a kind, or of a version of the library, that is not known here."""
    import torch

    kind = type(router).__name__
    # What it must have beside its matrix.
    known = {
        "Qwen3MoeTopKRouter": ("norm_topk_prob", "top_k"),
        "GptOssTopKRouter": ("bias", "top_k"),
        "DeepseekV2TopkRouter": ("topk_method", "routed_scaling_factor", "top_k"),
        "DeepseekV3TopkRouter": (
            *("e_score_correction_bias", "num_group", "topk_group", "norm_topk_prob"),
            *("routed_scaling_factor", "top_k"),
        ),
    }
    if kind not in known or not all(hasattr(router, name) for name in known[kind]):
        return None
    if getattr(router, "topk_method", "greedy") != "greedy":
        return None
    bias = getattr(router, "e_score_correction_bias", getattr(router, "bias", None))
    v3 = kind == "DeepseekV3TopkRouter"
    return Rule(
        kind=kind,
        matrix=router.weight.detach().cpu().double(),
        bias=torch.zeros(experts).double() if bias is None else bias.detach().cpu().double(),
        groups=router.num_group if v3 else 1,
        best_groups=router.topk_group if v3 else 1,
        normed=getattr(router, "norm_topk_prob", False),
        factor=getattr(router, "routed_scaling_factor", 1.0),
    )


def _layers(model: Any, site: Site) -> list[Layer]:
    """The first and the last with experts."""
    paths = [path for path, _ in model.named_modules() if path.rpartition(".")[2] == EXPERTS]
    layers = []
    for path in dict.fromkeys(paths[:1] + paths[-1:]):
        owner = path.rpartition(".")[0]
        block = model.get_submodule(owner)
        router = next((getattr(block, name) for name in ROUTERS if hasattr(block, name)), None)
        layers.append(Layer(owner, block.experts, router, path == paths[-1], site))
    return layers


def _tokens(index: Tensor, seed: int) -> list[int]:
    """Which of them are looked at: the last of the last group, of the smallest and of the largest,
    the first and the last of all, then drawn. index: [T, k]."""
    counts = index.flatten().bincount()
    some = counts.clamp(min=0).where(counts > 0, counts.sum() + 1)
    groups = (len(counts) - 1, int(some.argmin()), int(counts.argmax()))
    found = [int((index == group).any(1).nonzero()[-1]) for group in groups]
    draw = random.Random(seed)
    found += [0, len(index) - 1, *(draw.randrange(len(index)) for _ in range(TOKENS))]
    return list(dict.fromkeys(found))[:TOKENS]


def _not_a_choice(index: Tensor, experts: int) -> str:
    """Why indices [T, k] are none of so many experts, each once; empty where they are."""
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= experts:
        return f"expert {low if low < 0 else high} of {experts}"
    if bool((index.sort(1).values.diff(dim=1) == 0).any()):
        return "a token that goes twice to an expert"
    return ""


def _expert(experts: Any, row: Tensor, number: int) -> Tensor:
    """What one expert makes of a row [H], in float64 on the host; the gate is the library's."""

    def product(x: Tensor, name: str) -> Tensor:
        matrix = getattr(experts, name)[number].detach().cpu()
        found = _times(x, matrix, experts.is_transposed)
        if experts.has_bias:
            found = found + getattr(experts, f"{name}_bias")[number].detach().cpu().double()
        return found

    gated: Tensor = experts._apply_gate(product(row, "gate_up_proj")[None])
    return product(gated[0], "down_proj")


def _times(x: Tensor, matrix: Tensor, transposed: bool) -> Tensor:
    """[K] by a matrix [N, K], or [K, N] where that is said, widened in pieces."""
    import torch

    rows = max(1, PIECE // matrix.shape[1])
    pieces = matrix.split(rows)
    if not transposed:
        return torch.cat([piece.double() @ x for piece in pieces])
    parts = [of @ piece.double() for of, piece in zip(x.split(rows), pieces, strict=True)]
    return torch.stack(parts).sum(0)


def _most(site: Site, quantity: str, length: int) -> float:
    return allowed(site.precision, quantity, length, SUMMED)
