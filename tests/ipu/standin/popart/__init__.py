"""Stand-in for popart: the two enums that optimum-graphcore reads."""

import enum


class AccumulateOuterFragmentSchedule(enum.IntEnum):
    """When accumulation runs."""

    Scheduler = 0
    Serial = 1
    OverlapCycleOptimized = 2
    OverlapMemoryOptimized = 3


class SubgraphCopyingStrategy(enum.IntEnum):
    """When a subgraph's inputs are copied."""

    OnEnterAndExit = 0
    JustInTime = 1
