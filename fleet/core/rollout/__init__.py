"""The rollout engine: pure decisions about one bundle (rollouts.md section 3).

`step` takes the state, an event and the time, and returns the next state with everything to do about it. Around it, one
file per noun: admission (of a release), lifecycle (the lock, superseding, draining), wave, gate, member, rollback,
catchup, facts (of fleet.yaml), quarantine, commands, blocking, clocks, evidence. `explain` puts the state into words.
"""

from fleet.core.rollout.draft import assignment
from fleet.core.rollout.explain import Explanation, explain, explain_cluster
from fleet.core.rollout.lifecycle import trace_id
from fleet.core.rollout.rollback import principal
from fleet.core.rollout.step import aged, fold, step

__all__ = ["Explanation", "aged", "assignment", "explain", "explain_cluster", "fold", "principal", "step", "trace_id"]
