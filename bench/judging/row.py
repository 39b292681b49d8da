"""The row: one case of one run, judged. A value; `bench.judging.summary` makes it."""

from __future__ import annotations

from typing import Literal

import msgspec

from bench import stats, units
from bench.judging.endpoint import EndpointSummary
from bench.judging.interval import Interval
from bench.judging.load import Load
from bench.judging.ranks.pairs import Pairs
from bench.judging.ranks.slow import RankTimes
from bench.judging.served import ServingSummary
from bench.planning.shapes import ARITHMETIC
from bench.planning.tuning import Trial
from bench.planning.versions import today
from bench.precision import PRECISIONS
from bench.records.case import Case, Choice
from bench.records.executed import Executed
from bench.records.outcome import Cold

Verdict = Literal["OK", "NOISY", "FEW_LAUNCHES", "NO_STEADY_STATE", "THROTTLED", "INVALID"]
"""Of a measured case. `FEW_LAUNCHES`: nothing is wrong but that there are too few launches for an
interval (documents made before it was a word of its own say `NOISY`, with `ci_low` null)."""
UNDISTURBED: tuple[Verdict, ...] = ("OK", "NOISY", "FEW_LAUNCHES")
"""Verdicts whose figure is the device's: how surely it is known is another question."""
Limit = Literal["matmul", "memory", "transfer", "power", "host", "input", "kernels"]
"""What holds a case back: arithmetic, memory bandwidth, the link to the host, the power that the
device may draw for its arithmetic, the host, which queues its kernels, the input pipeline, for
which it waits; or its own kernels, which reach none of these by half."""
REACHED = 0.5
"""From this share of a ceiling on, it is the ceiling that holds a case back; below, its kernels."""
HOST_BOUND = 0.8
"""From this share of a step on, the host's time to queue it has nothing left to hide behind."""
INPUT_BOUND = 0.2
"""From this share of the time on, waiting for input is what to look at first."""


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True):
    """Request latency over launches, seconds. A percentile without enough samples is None."""

    name: str
    """`latency`, `TTFT`, `TPOT`."""
    requests: int
    """Fewest requests of any launch."""
    p50: float
    p50_low: float | None
    p50_high: float | None
    p90: float | None
    p99: float | None


class Efficiency(Interval, frozen=True, kw_only=True):
    """Throughput a device, over that of the same work on fewer: `bench.judging.ranks.scaling`."""

    against: int
    """So many devices: one, or the fewest at which the work was measured. Of that point itself the
    value is 1, and has no interval."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """What joins the devices, by a collective's times over sizes: `bench.judging.ranks.links`."""

    latency: Interval
    """Seconds of an operation of no bytes."""
    bandwidth: Interval
    """Bytes/s that bus bandwidth rises to."""
    launches: int
    least_bytes: int
    most_bytes: int
    """Smallest and largest size of the sweep."""
    miss: float
    """How far the line misses a measured time, relatively, where it does so most."""
    missed_bytes: int
    """That size."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One case of one run, judged."""

    case: Case
    status: Literal["measured", "void", "skipped", "failed"]
    reason: str
    """Why it is not measured, or why its verdict is not OK; empty where there is nothing to say."""
    sweep_end: bool = False
    """Out of memory at a larger batch than one that was measured: an answer, not a fault."""
    reached: bool = True
    """False for a planned case without a launch that was to have one."""
    untried_point: bool = False
    """Whether the run was not to try it: a point of a sweep over devices, or a case that has not
    the precision that all are to have."""
    instead: str = ""
    """Why it is not in the precision that its suite says; empty where it is."""
    verdict: Verdict | None = None
    unit: str = ""
    throughput: float | None = None
    """Items/s: geometric mean over launches of items / steady wall seconds."""
    interval: stats.Estimate | None = None
    rates: tuple[float, ...] = ()
    """Items/s of each measured launch, in the order they ran."""
    rounds: tuple[int, ...] = ()
    """Which launch of the case each of those was, from 0: cases take turns, so equal ones ran at
    about the same time."""
    clocks_mhz: tuple[float | None, ...] = ()
    """The device's clock in each of those launches; None where that was not observable."""
    slowest_clocks_mhz: tuple[float | None, ...] = ()
    """Of several devices that of the slowest one: of one device the same."""
    launches: int = 0
    """Measured launches that the figures are made of."""
    excluded: int = 0
    """Launches that failed beside measured ones."""
    exclusion: str = ""
    """Why the first of those failed."""
    hindered: int = 0
    """Measured launches that are left out: something outside the job slowed them, by a flag with
    its cause. Where that is so of all, all are in the figures, and the verdict says it."""
    hindrance: str = ""
    """What slowed the first of those."""
    steps: int = 0
    """Steady steps, all launches."""
    median_sample: float | None = None
    """Seconds a step: median, 25th percentile and least of all steady samples."""
    p25_sample: float | None = None
    least_sample: float | None = None
    within_sd: float | None = None
    """Relative standard deviation of samples within a launch (mean over launches)."""
    between_sd: float | None = None
    """Relative standard deviation between launches; None below two."""
    outliers: int = 0
    flags: tuple[str, ...] = ()
    """What was seen wrong with any launch; `FAR_OUT` with one beside the others, `CLOCKS_SET`
    with the device."""
    far_out: dict[int, float] = {}
    """Of the launches in the figures those that stand far from the rest, by number, with their
    share of the median throughput. Nothing was seen that would explain them: they stay in."""
    flag_ranks: dict[str, tuple[int, ...]] = {}
    """Of several devices: whose flag it is, where it is not that of all."""
    shared_host: bool = False
    """Whether its ranks compute on the cores of one host: then they are one device, and nothing is
    said of how well several would do together."""
    pairs: Pairs | None = None
    """A map of the links between its ranks; None of other work."""
    latency: LatencySummary | None = None
    endpoint: EndpointSummary | None = None
    """Of a server that was measured from outside; None of other work."""
    serving: ServingSummary | None = None
    """Of a load that was served; None of other work."""
    flop_per_second: float | None = None
    least_flop_per_second: float | None = None
    """What of those no kernel can leave out, as a causal one computes half of its scores, and what
    checkpointing does again. A share of what was measured is of these, and so is what cannot be
    true; MFU, by its definition, of the others."""
    ceiling_fraction: float | None = None
    """Share of the best matmul throughput that this run measured at the same arithmetic."""
    matmul_ceiling: float | None = None
    """That best matmul throughput, FLOP/s."""
    host_fraction: float | None = None
    """Host time to queue a step over the time of a step; None on synchronous devices."""
    input_fraction: float | None = None
    """Share of the steady time in which a step waited for its batch; None without a pipeline."""
    input_wait_seconds: float | None = None
    """That wait, a step."""
    mfu: float | None = None
    """Model FLOP utilization: share of the chip's dense peak at the same arithmetic."""
    mfu_of: str = ""
    """The chip whose peak that is, who says so if not we, and how far it is trusted."""
    mfu_absent: str = ""
    """Why there is no MFU. Of several devices it is each one's share."""
    mbu: float | None = None
    """Model bandwidth utilization: share of the chip's memory bandwidth."""
    mbu_of: str = ""
    """As `mfu_of`."""
    mbu_absent: str = ""
    """Why there is no MBU."""
    items_per_joule: float | None = None
    """Geometric mean over launches; None where a launch has no energy figure."""
    joule_rates: tuple[float, ...] = ()
    """Those of each launch, as `rates`; nothing where a launch has none."""
    joule_interval: stats.Estimate | None = None
    """Of the items per joule over launches."""
    energy_source: str = ""
    """Who says so, and how: `SOURCE, counter`, `SOURCE, power`, or `SOURCE, counter and power`: of
    some launches the one, of others the other."""
    energy_scope: str = ""
    """Of what: chip, board, package, shared."""
    energy_absent: str = ""
    """Why there is no energy figure."""
    idle_watts: float | None = None
    """Of the device before the run's first worker had it; the energy above holds it too."""
    packages: int | None = None
    """How many whole cards or packages its devices are; None where that is not known, of one
    device, and where one was not in the launch with all its devices."""
    watts: float | None = None
    """Mean power of all of them over the steady blocks: its energy over their time."""
    not_observable: dict[str, str] = {}
    """What nobody could see of the device meanwhile, and why."""
    bytes_per_second: float | None = None
    experts_hit: float | None = None
    """Experts of a layer that a step's tokens went to, a mean, where the bytes count those; None
    where they are of even loads, and of work without experts."""
    in_cache: str = ""
    """Why the bandwidth of a stream is no ceiling of memory: caches may hold its arrays."""
    bandwidth_fraction: float | None = None
    """Share of the best memory bandwidth that this run measured."""
    bandwidth_ceiling: float | None = None
    """That best bandwidth, bytes/s."""
    bus_bytes_per_second: float | None = None
    """Of a collective: bus bandwidth, as nccl-tests defines it. Its throughput is algorithm
    bandwidth: of each rank's buffer, not of all of them."""
    operation_seconds: float | None = None
    """Of a collective: mean time of one operation."""
    link: Link | None = None
    """Of a collective in a sweep over sizes."""
    strong: Efficiency | None = None
    """Beside the same batch on fewer devices."""
    weak: Efficiency | None = None
    """Beside the same batch a device on fewer devices."""
    ranks: RankTimes | None = None
    """What each rank computes, and who is slow; None of one device, and where nobody looked."""
    exposed: Interval | None = None
    """Seconds of communication that a step waits for, what is hidden behind computing left out;
    None where nobody looked. Noise may make it negative."""
    exposed_fraction: Interval | None = None
    """Its share of the step."""
    reduced_bytes: int | None = None
    """Of training on several devices: all gradients, as they are reduced once a step."""
    reduced_as: str = ""
    """In which precision."""
    transferred_bytes_per_second: float | None = None
    """From the host to the device."""
    transfer_fraction: float | None = None
    """Share of the best transfer to the device that this run measured."""
    transfer_ceiling: float | None = None
    """That best transfer, bytes/s."""
    share_half_widths: dict[str, float] = {}
    """Of the shares of those ceilings (`matmul`, `memory`, `transfer`) half the interval's width on
    the log scale: of the case and of the ceiling together, as far as they have one. Nothing of a
    case that is the ceiling."""
    peak_memory_bytes: int | None = None
    memory_scope: str = ""
    load: Load | None = None
    """Of arithmetic alone, on a device that queues: how long it had been under load before; else
    None."""
    estimated_peak_bytes: int | None = None
    """What the case's tensors need, from shapes; of a CPU's peak the process itself is a part."""
    cold: Cold = Cold()
    """Of the launches that found nothing of an earlier one: medians. Of all where there is none
    such: in old records, and where another case of the run has left it all."""
    warm: Cold = Cold()
    """Of the others, which found references and compiled graphs; nothing where there are none."""
    compiler: dict[str, int] = {}
    """What the compiler did, where it was asked: `graphs` that it made, and `graph_breaks`."""
    optimizer_passed_over: str = ""
    """Which implementation of the optimizer is wrong on the device, with its figures, and what ran
    in its place; empty if none is known to be."""
    spread: str = ""
    """Of training on several devices what decides the work of one: what each holds, micro-batches,
    what is computed again, what is rounded, and what travels in which dtype."""
    executed: Executed | None = None
    """Which implementations a step ran through; None where no launch looked."""
    choice: Choice | None = None
    """Of a tuned case: the choice that the figures are of."""
    trials: tuple[Trial, ...] = ()
    """The launches by which that was found, in the order they ran; no figure is made of them."""
    untried: int = 0
    """Choices that had no launch yet when the run ended, or that a smaller batch ruled out."""

    @property
    def measured(self) -> bool:
        """Whether it has a number."""
        return self.status == "measured"

    @property
    def work(self) -> Case:
        """The case as this release plans the same work: what two runs are compared by."""
        return today(self.case)

    @property
    def item(self) -> str:
        """What its throughput counts: `image`."""
        return self.unit.removesuffix("/s")

    @property
    def rate(self) -> str:
        """Its throughput with its unit, of a row that has one: `45.1 image/s`."""
        assert self.throughput is not None
        return units.rate(self.throughput, self.item)

    @property
    def throughput_per_device(self) -> float | None:
        """Items/s of each of its devices; None where ranks share a host, and without a figure.

        Nor has a collective any: its items are those of one device already.
        """
        if self.throughput is None or self.shared_host or self.operation_seconds is not None:
            return None
        return self.throughput / self.case.devices

    @property
    def throughput_per_package(self) -> float | None:
        """Items/s of each of its packages; None where `throughput_per_device` or they are."""
        each = self.throughput_per_device
        if each is None or self.packages is None:
            return None
        return each * self.case.devices / self.packages

    @property
    def watts_per_package(self) -> float | None:
        """Mean power of each; of a die it is not to be had where the package has the one figure."""
        if self.watts is None or self.packages is None:
            return None
        return self.watts / self.packages

    @property
    def arithmetic(self) -> str:
        """What shares a ceiling; a precision that only a newer version knows is one of its own."""
        precision = PRECISIONS.get(self.case.precision)
        return self.case.precision if precision is None else precision.arithmetic

    @property
    def operation(self) -> str:
        """What `flop_per_second` counts: `FLOP`, or `OP` where they are of integers."""
        precision = PRECISIONS.get(self.case.precision)
        return "FLOP" if precision is None else precision.operation

    @property
    def left_out(self) -> str:
        """Launches that are not in the figures, and why; empty if all are."""
        total = self.launches + self.hindered + self.excluded
        parts = []
        if self.excluded:
            parts.append(f"{self.excluded} of {total} launches failed: {self.exclusion}")
        if self.hindrance:
            count = f"{self.hindered} of {total}" if self.hindered else "all"
            parts.append(f"{count} launches slowed from outside: {self.hindrance}")
        return "; ".join(parts)

    @property
    def why(self) -> str:
        """What became of a case without a number: `failed: it broke`, `not reached: ...`."""
        return f"{self.status}: {self.reason}" if self.reached else self.reason or "not reached"

    @property
    def _ceilings(self) -> tuple[tuple[Limit, float | None, float | None], ...]:
        """Of each its share, and the rate that has one."""
        return (
            ("matmul", self.ceiling_fraction, self.flop_per_second),
            ("memory", self.bandwidth_fraction, self.bytes_per_second),
            ("transfer", self.transfer_fraction, self.transferred_bytes_per_second),
        )

    @property
    def limit_half_width(self) -> float | None:
        """Of the share in `limit`, as in `share_half_widths`; None of host and input."""
        if self.limit is None or self.limit[0] in ("host", "input"):
            return None
        nearest = [name for name, share, _ in self._ceilings if share == self.limit[1]]
        return self.share_half_widths.get(nearest[0]) if nearest else None

    @property
    def limit(self) -> tuple[Limit, float] | None:
        """What holds the case back, and how far it came: one word and one share.

        Of a ceiling of the device that this run measured, the share that the case reaches. Of the
        host, the time that it takes to queue a step over that of a step: while the device is busy
        for longer it is hidden, so it counts from `HOST_BOUND` on; and all of a step is the most
        that it can be, though queued by itself a step may take longer yet. Of input, the share of
        the time that a step waits for it. Of kernels, the share of the nearest ceiling; what of a
        step is not counted (often the bytes that it moves) is not among the ceilings. None where
        none is reached and one of those that count was not measured: it may be the nearest. Nor of
        a model in 8 bits from half of `REACHED` on: its attention and output matrix are in 16, half
        as fast, and its share is as if they were not.
        """
        power = "POWER_CAPPED" in self.flags
        known = [(name, share) for name, share, _ in self._ceilings if share is not None]
        found: list[tuple[Limit, float]] = [
            ("power" if power and name == "matmul" else name, share)
            for name, share in known
            if share >= REACHED
        ]
        if self.host_fraction is not None and self.host_fraction >= HOST_BOUND:
            found.append(("host", self.host_fraction))
        if self.input_fraction is not None and self.input_fraction >= INPUT_BOUND:
            found.append(("input", self.input_fraction))
        if found:
            name, share = max(found, key=lambda pair: pair[1])
            return name, min(share, 1.0) if name == "host" else share
        unmeasured = any(share is None and rate is not None for _, share, rate in self._ceilings)
        precision = PRECISIONS.get(self.case.precision)
        if precision and precision.quantized and self.case.workload != ARITHMETIC:
            unmeasured |= (self.ceiling_fraction or 0.0) >= REACHED / 2
        if unmeasured or not known:
            return None
        return "kernels", max(share for _, share in known)
