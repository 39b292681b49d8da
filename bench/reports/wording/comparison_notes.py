"""What is said beside a comparison's table: what may explain it before, the rest after."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from bench import units
from bench.judging.comparing.compare import WITNESS_TOLERANCE, in_equal_rounds
from bench.judging.comparing.comparison import CaseComparison, CompareVerdict, Comparison
from bench.judging.comparing.differences import ABSENT, Difference, states
from bench.judging.comparing.reasons import Code
from bench.judging.comparing.verdicts import (
    COMPARE_LAUNCHES,
    EQUIVALENCE,
    LEAST_DIFFERENCE,
    SIGNIFICANCE,
)
from bench.judging.row import Row
from bench.planning.tuning import in_words
from bench.reports.wording import systems as system_words
from bench.reports.wording.card_notes import FLAGS
from bench.reports.wording.labels import Label, listed
from bench.reports.wording.notes import Note, grouped
from bench.reports.wording.rows import WHOSE, factor, of_peaks, share, spread, whose, word_of
from bench.telemetry.flags import HINDERED

STYLE: dict[CompareVerdict, str] = {
    "FASTER": "bold green",
    "SLOWER": "bold red",
    "EQUIVALENT": "green",
    "INCOMPARABLE": "bold yellow",
    "UNRANKED": "yellow",
}
WORDS: dict[CompareVerdict, str] = {
    "FASTER": "FASTER",
    "SLOWER": "SLOWER",
    "EQUIVALENT": "EQUIVALENT",
    "UNDECIDED": "no significant difference",
    "NO_INTERVAL": "no interval",
    "UNRANKED": "not ranked",
    "INCOMPARABLE": "INCOMPARABLE",
}
"""A verdict in words."""
CELLS: dict[CompareVerdict, str] = {**WORDS, "UNDECIDED": "undecided"}
"""A verdict in a line of the table."""
JUDGED: tuple[CompareVerdict, ...] = ("FASTER", "SLOWER", "EQUIVALENT")
"""The verdicts that say something of the two devices."""
EXPLAINS = re.compile(
    r"^(framework|torch|transformers|diffusers|peft|driver|runtime|threads|threads_used|instructions|"
    r"instructions_used|cpu_capability|mkldnn|compute_capability|"
    r"world (hosts|devices_per_host|machines|library|library_version)|"
    r"server('s (command|prefill)| name| version| started| same_host| prompts))$"
    r"|limit|_max_mhz|_mode$|governor|quota|memory_format|attention|operators|fused|precision|reduced"
)
"""Names of facts by which one run may be faster than another on one chip."""
EXTRAS = ("diffusers", "peft")
"""Packages that may where both have them."""
HEAD = ("device", "backend")
"""Differences that the first two lines of the card show."""
MOST_DIFFERENCES = 8
PER_JOULE, PER_PRICE = "per joule", "per price"
"""Columns, and what they are called elsewhere."""
OUTPUTS = "first loss or mean output differs at equal seeds"


def explaining(comparison: Comparison) -> tuple[list[Difference], list[Difference]]:
    """The differences that may explain a ratio, settings left out, and all others."""
    said = {one.name for one in comparison.configured.settings}
    rest = [one for one in comparison.differences if one.name not in {*said, *HEAD}]
    # What one run does not say of these it may not have been asked.
    unasked = {*EXTRAS, *states(comparison.base, comparison.other)}
    may = [
        one
        for one in rest
        if EXPLAINS.search(one.name)
        and (ABSENT not in (one.base, one.other) or one.name not in unasked)
    ]
    return may, [one for one in rest if one not in may]


def before(comparison: Comparison) -> Iterator[Note]:
    """What must be known before any figure is read."""
    found = comparison.configured
    for one in found.settings:
        on_purpose = one.name in found.compared
        word, style = ("COMPARED", "bold") if on_purpose else ("SETTINGS DIFFER", "bold yellow")
        yield Note(word, _sides(one), style)
    may, _ = explaining(comparison)
    if may:
        yield Note("MAY EXPLAIN IT", "; ".join(map(_sides, may)), "bold")


def _sides(one: Difference) -> str:
    return f"{one.name}: {one.base} | {one.other}"


def beside(comparison: Comparison, case: CaseComparison) -> list[str]:
    """What must be known beside a verdict."""
    marked = comparison.configured.unintended and case.verdict in ("FASTER", "SLOWER")
    differ = "settings differ" if marked else ""
    gap = f"{OUTPUTS}: {case.witness_gap:.0%}" if _odd(case) else ""
    return [one for one in (differ, gap, case.clock_remark, case.experts_remark) if one]


def _odd(case: CaseComparison) -> bool:
    return case.witness_gap is not None and case.witness_gap > WITNESS_TOLERANCE


def notes(comparison: Comparison, names: Mapping[str, Label]) -> Iterator[Note]:
    """What the chip may not be blamed for, what is odd, and why cases have no verdict."""
    cases = comparison.cases
    judged = [case for case in cases if case.split or (case.system and case.system.product)]
    if comparison.configured.chip_doubt and judged:
        unknown = "whether a setting is the cause is not known, as said below"
        known = comparison.configured.doubt_code != Code.SETTINGS_UNKNOWN
        doubt = comparison.configured.chip_doubt if known else unknown
        yield Note("No verdict on the chip", doubt)
    proofs = [(c.same_work, c) for c in cases if c.same_work is not None and c.ratio is not None]
    if told := [f"{_name(case, names)}: {work.words}" for work, case in proofs if work.proved]:
        yield Note("PROVED", "; ".join(told), "green")
    for said, alike in grouped(proofs, lambda proof: proof[0].unproved):
        yield Note("NOT PROVED", f"{said}: {_called([c for _, c in alike], names)}", dim=True)
    for said, some in grouped(cases, lambda case: _rounds(comparison, case)):
        yield Note("EQUAL ROUNDS", f"{said}: {_called(some, names)}", dim=True)
    if odd := [f"{_name(case, names)} {case.witness_gap:.0%}" for case in cases if _odd(case)]:
        yield Note("CHECK", f"{OUTPUTS}: {listed(odd)}")
    for said, some in grouped(cases, lambda case: case.experts_remark):
        yield Note("EXPERTS", f"{said}: {_called(some, names)}", dim=True)
    for said, some in grouped(cases, lambda case: case.clock_remark):
        yield Note("CLOCK", f"{said}: {_called(some, names)}")
    for verdict in ("UNRANKED", "NO_INTERVAL", "INCOMPARABLE"):
        some = [case for case in cases if case.verdict == verdict]
        reasons = [(reason, case) for case in some for reason in case.reasons]
        found = list(grouped(reasons, lambda pair: pair[0]))
        for reason, of_it in sorted(found, key=lambda pair: -len(pair[1])):
            called = _called([case for _, case in of_it], names)
            yield Note(CELLS[verdict], f"{reason}: {called}", STYLE.get(verdict, "yellow"))
    yield from _of_one_side(cases, names)
    yield from _chosen(cases, names)
    for said, some in grouped(cases, _of_unlike_scopes):
        yield Note("energy", f"no ratio {PER_JOULE}: {said}: {_called(some, names)}", dim=True)
    for case in cases:
        if case.system is not None and case.system.beside:
            text = f"{'; '.join(case.system.beside)}: {_name(case, names)} (--devices chooses)"
            yield Note("NOT COMPARED", text, dim=True)


def _of_one_side(cases: Sequence[CaseComparison], names: Mapping[str, Label]) -> Iterator[Note]:
    """Flags that the launches of one side alone have, which may be why it is slower; but for those
    whose launches are left out of the figures, and what is a side's verdict."""
    pairs = [
        (_name(case, names), (case.base, case.other))
        for case in cases
        if case.ratio is not None and case.base is not None and case.other is not None
    ]
    for flag in (flag for flag in FLAGS if flag not in HINDERED):
        for i, who in enumerate(("base", "other")):
            found = [
                name + whose(rows[i], flag)
                for name, rows in pairs
                if flag in rows[i].flags
                and flag not in rows[1 - i].flags
                and flag != rows[i].verdict
            ]
            if found:
                yield Note(flag, f"of the {who} alone: {FLAGS[flag]}: {listed(found)}")


def _rounds(comparison: Comparison, case: CaseComparison) -> str:
    """Of how many rounds a ratio is that is not of all launches whose figures stand beside it."""
    if case.base is None or case.other is None or case.ratio is None:
        return ""
    base, other = in_equal_rounds((comparison.base, comparison.other), case.base, case.other)
    if base is case.base and other is case.other:
        return ""
    return f"ratio of the {units.counted(base.launches, 'round')} that are in both sides' figures"


def _of_unlike_scopes(case: CaseComparison) -> str:
    """Whose energy each side's is, where that is why there is no ratio of both."""
    base, other = case.base, case.other
    if case.ratio is None or base is None or other is None:
        return ""
    if not base.items_per_joule or not other.items_per_joule:
        return ""
    mine, theirs = (WHOSE.get(s, s) for s in (base.energy_scope, other.energy_scope))
    return "" if mine == theirs else f"of {mine} in the base, of {theirs} in the other"


def chose_unlike(case: CaseComparison) -> bool:
    """Whether a tuned case has no verdict for its sides' unlike choices, which launches of them do
    not decide."""
    base, other = (row and row.choice for row in (case.base, case.other))
    return case.verdict == "UNDECIDED" and base != other and excludes_one(case)


def _chosen(cases: Sequence[CaseComparison], names: Mapping[str, Label]) -> Iterator[Note]:
    """Tuned cases: what each side's trials found best, and where that may be why they differ."""
    for case in cases:
        chosen = [row.choice for row in (case.base, case.other) if row is not None and row.choice]
        if case.ratio is not None and len(chosen) == 2:
            base, other = map(in_words, chosen)
            luck = ", which may be why they differ" if chose_unlike(case) else ""
            text = f"each side at what its trials found best{luck}: base {base}; other {other}"
            yield Note("TUNED", f"{text}: {_name(case, names)}", "bold")


def _name(case: CaseComparison, names: Mapping[str, Label]) -> str:
    name = names[case.case.fingerprint].short
    return f"{name}, {system_words.spreads(case)}" if case.system else name


def _called(cases: Sequence[CaseComparison], names: Mapping[str, Label]) -> str:
    return listed([_name(case, names) for case in cases])


def figure(case: CaseComparison, row: Row | None) -> str:
    """A side's throughput, or why it has none; nothing of what is not the same work: its figures
    must not be read side by side."""
    if row is None or (row.throughput is not None and case.ratio is None):
        return ""
    return word_of(row) if row.throughput is None else row.rate


def after(comparison: Comparison, *, wide: bool) -> tuple[str, list[Note]]:
    """In what else the runs differ, and what is not known of them: a heading and its lines."""
    may, rest = explaining(comparison)
    unsaid: dict[str, list[str]] = {}
    for words in comparison.configured.not_recorded:
        who, _, what = words.partition(": ")
        unsaid.setdefault(what, []).append(who)
    nothing = "nothing that both recorded" if unsaid else "nothing else"
    also = " also" if may or comparison.configured.settings else ""
    heading = f"The runs{also} differ in" if rest else f"The runs differ in {nothing}."
    if not rest and also:
        heading = "Of what both recorded, nothing else differs."
    lines = [Note(one.name, f"{one.base} | {one.other}", "") for one in rest]
    if len(lines) > MOST_DIFFERENCES and not wide:
        more = len(lines) - MOST_DIFFERENCES + 1
        lines = [*lines[:-more], Note(f"{more} more", "--wide", dim=True)]
    lines += [Note(f"not known of {' and '.join(w)}", what, "") for what, w in unsaid.items()]
    return heading, lines


def legend(comparison: Comparison, left_out: Sequence[str], *, wide: bool) -> str:
    """What the words of the table mean, as far as they stand there."""
    few = f"Under {COMPARE_LAUNCHES} launches a side: no interval"
    shown = {case.verdict for case in comparison.cases}
    of = " of whole systems at equal global batch" if comparison.of_systems else ""
    sentences = [f"Ratio: other / base throughput{of}"] if comparison.ratios else []
    if any(case.interval is not None for case in comparison.cases):
        sentences[0] += f", {comparison.level:.0%} Welch interval over launches"
        sentences.append(
            f"FASTER, SLOWER: significant at {SIGNIFICANCE:.0%} over all cases together "
            f"(Holm) and {LEAST_DIFFERENCE:.0%} or more"
        )
    if "EQUIVALENT" in shown:
        sentences.append(f"EQUIVALENT: the interval lies within ±{EQUIVALENCE:.0%}")
    if "UNDECIDED" in shown:
        sentences.append("undecided: no significant difference, any in the interval possible")
    if "NO_INTERVAL" in shown:
        sentences.append(few)
    chip, software = parts(comparison)
    if any(case.split for case in comparison.cases) and f"{chip} x {software}" not in left_out:
        sentences.append(
            f"{chip} x {software}: the ratio, as that of the ceilings that both measured times "
            "that of the shares reached"
        )
    if any(case.joule_ratio for case in comparison.cases) and (wide or PER_JOULE not in left_out):
        sentences.append(f"{PER_JOULE}: other / base items for the same energy")
    if any(case.price_ratio for case in comparison.cases):
        sentences.append(f"{PER_PRICE}: other / base items for the same money")
    sentences += system_words.legend(comparison)
    if comparison.configured.unintended and shown & {"FASTER", "SLOWER"}:
        sentences.append("*: settings differ")
    if left_out and not wide:
        sentences.append(f"Not shown: {', '.join(left_out)} (--wide)")
    return "".join(f"{one}. " for one in sentences).rstrip()


def parts(comparison: Comparison) -> tuple[str, str]:
    """What the two factors of a ratio are called: the chip's only where nothing else can be it."""
    return ("ceiling", "share") if comparison.configured.chip_doubt else ("chip", "software")


def excludes_one(case: CaseComparison) -> bool:
    """Whether the interval says that the two differ."""
    return case.interval is not None and not case.interval.low <= 1 <= case.interval.high


def details(case: CaseComparison, names: tuple[str, str]) -> Iterator[str]:
    """What is behind a ratio, as far as the records say; names: of the two parts of a split."""
    yield "; ".join(part for part in (case.case.detail, case.case.fingerprint) if part)
    for who, row in (("base", case.base), ("other", case.other)):
        if row is not None:
            yield f"{who}: {_figures(row)}"
    said = [f"p = {case.p_value:.2g}"] if case.p_value is not None else []
    if case.verdict == "UNDECIDED" and case.not_excluded is not None:
        said.append(f"up to {case.not_excluded:.1%} not excluded")
    split = case.split
    if split is not None and case.ratio is not None:
        shares = " and ".join(share(one) for one in split.shares)
        said.append(
            f"{factor(case.ratio)} = {names[0]} {factor(split.chip)} x {names[1]} "
            f"{factor(split.software)} "
            f"({shares} of {split.ceiling})"
        )
    if case.joule_ratio is not None:
        said.append(f"{PER_JOULE} {per_joule(case)}")
    if case.price_ratio is not None:
        said.append(f"{PER_PRICE} {factor(case.price_ratio)}")
    if said:
        yield "; ".join(said)
    if case.reasons:
        yield "; ".join(case.reasons)


def per_joule(case: CaseComparison) -> str:
    """The ratio of the items per joule, and how sure it is; empty where there is none."""
    if case.joule_ratio is None:
        return ""
    return f"{factor(case.joule_ratio)} {spread(case.joule_interval)}"


def _figures(row: Row) -> str:
    if row.throughput is None:
        return row.why
    verdict = str(row.verdict).replace("_", " ")
    return ", ".join(
        [
            f"{row.rate} {spread(row.interval)}",
            units.counted(row.launches, "launch"),
            *of_peaks(row),
            verdict,
        ]
    )
