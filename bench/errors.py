"""What can go wrong because of what the user gave, and how the process exits.

    AccelmarkError            exit code 2; the message is the whole story, no traceback
    |-- SuiteError            a suite file: unknown key, wrong value, impossible case
    |-- UnknownName           a suite, workload, backend, format that is not there
    |-- DeviceUnavailable     a device or its runtime that is not there
    |-- HostsError            hosts that cannot run together: what differs, or who does not come
    |-- OutputError           a place that cannot be written
    |-- RecordError           a file that is no record, is cut short, or is from another schema
    |-- ComparisonError       runs that have nothing in common, or options that do not fit them
    |-- ServerError           a server that cannot be reached, or cannot be measured as asked
    |-- MissingPackage        a package that one report needs and that is not installed
    `-- PublicationError      a run that may not be published, with every reason

Every message says what is wrong, where, what is allowed and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
"""Every planned case was measured (or skipped because the device cannot do it)."""
EXIT_INCOMPLETE = 1
"""The run ended, and at least one planned case has no usable number; or nothing was compared; or a
check failed."""
EXIT_BAD_INPUT = 2
"""The command line, a suite, a device, an output folder or a record cannot be used."""
EXIT_SLOWER = 3
"""`compare --fail-if-slower`: a case is surely slower, by the percentage given or more."""
EXIT_INTERRUPTED = 130
"""Ctrl-C or a termination signal: workers ended, what was measured is on disk."""


class AccelmarkError(Exception):
    """Bad input. The command prints the message and exits with `EXIT_BAD_INPUT`."""


class SuiteError(AccelmarkError):
    """A suite cannot be read or names work that cannot exist."""


class UnknownName(AccelmarkError):
    """A name that nothing here bears."""


class DeviceUnavailable(AccelmarkError):
    """The device asked for is not here, or its runtime does not load."""


class NothingInstalled(DeviceUnavailable):
    """Nothing here is made for such a device: no news to somebody who did not ask for it."""


class HostsError(AccelmarkError):
    """Several hosts that cannot run together, or a launcher's variables that say so."""


class OutputError(AccelmarkError):
    """The results cannot be written where they were asked for."""


class RecordError(AccelmarkError):
    """A file that is not a readable accelmark record."""


class ServerError(AccelmarkError):
    """A server that does not answer, or that cannot be measured as it was asked."""


class MissingPackage(AccelmarkError):
    """A package that only this report needs is not installed."""


class ComparisonError(AccelmarkError):
    """Runs that cannot be set side by side at all.

    code: of the rule that forbids it (`bench.judging.comparing.reasons`), named at the end of the
    message; empty where the options are at fault, not the runs.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(f"{message} [{code}]" if code else message)
        self.code = code


class PublicationError(AccelmarkError):
    """A run that may not stand among the published ones."""


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """`Did you mean ...?` where something is near, and what is allowed, as a sentence tail."""
    names = sorted(allowed)
    return f"{meant(name, names)} Allowed: {', '.join(names) or 'nothing'}."


def meant(name: str, allowed: Iterable[str]) -> str:
    """The first half of it: of names that are too many to list. Empty where none is near."""
    names = sorted(allowed)
    # In a name of three letters another letter is another name; two that changed places are a slip.
    swapped = [known for known in names if sorted(known) == sorted(name)]
    near = swapped or difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return f" Did you mean `{near[0]}`?" if near else ""
