"""The base and one other run of the page, compared; or why that is not possible."""

from __future__ import annotations

from collections import Counter

from bench import units
from bench.errors import ComparisonError, RecordError
from bench.judging.comparing.compare import compare, whole
from bench.judging.comparing.comparison import Comparison
from bench.judging.comparing.systems import otherwise_spread
from bench.reports.page.side import Side
from bench.reports.wording.comparison_notes import JUDGED, WORDS
from bench.reports.wording.rows import handed_on, ratio


class Pair:
    """The base and one other run, compared; or why that is not possible."""

    def __init__(self, base: Side, other: Side) -> None:
        self.base, self.other = base, other
        self.comparison: Comparison | None = None
        self.refusal = ""
        try:
            self.comparison = compare(whole(base.file), whole(other.file))
        except (ComparisonError, RecordError) as error:
            self.refusal = handed_on(str(error), base.file, other.file)
        damaged = base.file.damage or other.file.damage
        self.systems = None if damaged else otherwise_spread(base.file, other.file)
        """Whole systems of other numbers of devices; None where the runs have none in common."""
        cases = self.comparison.cases if self.comparison else ()
        self.compared = [c for c in cases if c.ratio is not None]
        """Cases with a ratio."""
        self.refused = [c for c in cases if c.ratio is None]
        """Cases without a ratio."""

    @property
    def apart(self) -> str:
        """What its name bears where curves lie over the base's that may not be compared."""
        sides = [(c.base, c.other) for c in self.refused]
        cases = sum(all(row and row.measured for row in pair) for pair in sides)
        several = f" in {units.counted(cases, 'case')}" if self.comparison else ""
        said = cases or not self.comparison
        return f", not comparable with run {self.base.number}{several}" if said else ""

    @property
    def sentence(self) -> str:
        """Who is faster, in how many cases; or that it cannot be said."""
        if self.comparison is None:
            return f"Run {self.other.number} cannot be compared with run {self.base.number}."
        counts = Counter(c.verdict for c in self.comparison.cases)
        total = units.counted(len(self.comparison.cases), "case")
        who = f"Run {self.other.number} ({self.other.file.run.device.get('name')})"
        few = {c.reasons[0] for c in self.comparison.cases if c.verdict == "NO_INTERVAL"}
        why = f" ({few.pop()})" if len(few) == 1 else ""
        said = [
            f"{word} in {counts[one]}{why if one == 'NO_INTERVAL' else ''}"
            for one, word in WORDS.items()
            if counts[one]
        ]
        if any(counts[verdict] for verdict in JUDGED):
            return f"{who} against run {self.base.number}, {total}: {', '.join(said)}."
        return (
            f"Whether run {self.other.number} or run {self.base.number} is faster cannot be said "
            f"of any of {total}: {', '.join(said)}."
        )

    @property
    def settings(self) -> list[str]:
        """Settings in which the two differ, and what is not known of them: before any figure."""
        if self.comparison is None:
            return []
        found = self.comparison.configured
        called = {"base": f"run {self.base.number}", "other": f"run {self.other.number}"}
        lines = [
            f"{'Compared' if one.name in found.compared else 'Settings differ'}: {one.name} "
            f"({called['base']}: {one.base}, {called['other']}: {one.other})."
            for one in found.settings
        ]
        for unsaid in found.not_recorded:
            who, _, what = unsaid.partition(": ")
            lines.append(f"Not known of {called[who]}: {what}.")
        return lines

    @property
    def mean(self) -> str:
        """The geometric mean of the ratios, which is no verdict."""
        mean = self.comparison.geometric_mean if self.comparison else None
        if self.comparison is None or mean is None:
            return ""
        cases = units.counted(len(self.comparison.averaged), "case")
        return (
            f"Geometric mean of the throughput ratios of {cases}: {ratio(mean)} "
            "(a summary, no verdict)."
        )
