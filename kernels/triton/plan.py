from __future__ import annotations
from dataclasses import dataclass
@dataclass(frozen=True)
class StepPlan:
    neurons: int
    units: int
    inner: int
    events: int
    split: int
    warps: int
    stages: int = 1
def plan_step(spec, neurons, *, own_weights=False):
    if own_weights or neurons < 8:
        return StepPlan(1, 32, 32, 16, 1, 4)
    return StepPlan(16, 32, 16, 1, 1, 4)
