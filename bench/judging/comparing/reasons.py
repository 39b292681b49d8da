"""Why two cases have the verdict that they have: a short code that stays, and words for people.

The page `comparability` of the guide lists every code; a test holds that it does.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Code(StrEnum):
    """Names the rule that was applied. A code keeps its meaning; a new rule gets a new one."""

    # The whole comparison is refused.
    SAME_RUN = "same-run"
    NOTHING_IN_COMMON = "nothing-in-common"
    # INCOMPARABLE: a side is missing.
    NOT_IN_BASE = "not-in-base"
    NOT_IN_OTHER = "not-in-other"
    # INCOMPARABLE: not the same work.
    WORKLOAD = "other-workload"
    VERSION = "other-version"
    MODE = "other-mode"
    PRECISION = "other-precision"
    EXECUTION = "other-execution"
    TRACK = "other-track"
    DEVICE_COUNT = "other-device-count"
    PARALLELISM = "other-parallelism"
    PARAMETER = "other-parameter"
    GLOBAL_BATCH = "other-global-batch"
    CHOICES = "other-choices"
    OTHER_WORK = "other-work"
    # INCOMPARABLE: not measured alike.
    SCHEMA = "other-schema"
    TIMING = "other-timing"
    UNIT = "other-unit"
    LOAD = "other-load"
    # INCOMPARABLE: a side has no number, or none that may be used.
    VOID = "void"
    FAILED = "failed"
    SKIPPED = "skipped"
    NOT_REACHED = "not-reached"
    NO_LOAD_IN_LIMIT = "no-load-in-limit"
    BEST_NOT_MEASURED = "best-not-measured"
    LIMIT_IN_DOUBT = "limit-in-doubt"
    SIMULATED = "simulated"
    SHORT_MANTISSA = "short-mantissa"
    FULL_MANTISSA = "full-mantissa"
    SHARED_HOST = "shared-host"
    UNTRAINED = "weights-not-trained"
    # NO_INTERVAL.
    FEW_LAUNCHES = "few-launches"
    # UNRANKED, and beside NO_INTERVAL.
    UNSTEADY = "no-steady-state"
    THROTTLED = "throttled"
    INVALID = "invalid"
    # UNRANKED.
    RATE_GIVEN = "rate-given"
    # The test decides.
    FASTER = "faster"
    SLOWER = "slower"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"
    # No verdict on the chip.
    SETTINGS_DIFFER = "settings-differ"
    SETTINGS_UNKNOWN = "settings-unknown"
    FRAMEWORKS_DIFFER = "frameworks-differ"
    VERSIONS_DIFFER = "versions-differ"
    CLOCKS_DIFFER = "clocks-differ"


class Reason(msgspec.Struct, frozen=True):
    """One reason."""

    code: Code
    words: str
