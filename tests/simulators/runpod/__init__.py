"""RunPod on loopback: REST v2 pods, catalog, logs and billing, and the corner of GraphQL that retrain uses.

`Simulator` is the way in. Where RunPod's documents are silent, a docstring says that it is a guess.
"""

from tests.simulators.runpod.clock import FakeClock
from tests.simulators.runpod.faults import Conditions, Fault, KeyRights, Misfortune, Operation, Trouble
from tests.simulators.runpod.pod import Pod, Status, Timing
from tests.simulators.runpod.pods import Inert, ProcessPod, Scripted, kill_holders
from tests.simulators.runpod.simulator import Simulator

__all__ = [
    "Conditions",
    "FakeClock",
    "Fault",
    "Inert",
    "KeyRights",
    "Misfortune",
    "Operation",
    "Pod",
    "ProcessPod",
    "Scripted",
    "Simulator",
    "Status",
    "Timing",
    "Trouble",
    "kill_holders",
]
