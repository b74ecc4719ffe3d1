"""The pod's main process: does the work, and at RunPod ends the pod after it (codes: `job/exits.py`).

A provider of local pods or containers sees the process end with a code. RunPod would start the container
again: there the process ends after SIGTERM alone, and else stays until its pod is gone, whatever went wrong.
"""

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress

from job.environment import own_pod
from job.exits import ExitCode, Outcome
from job.provider import Provider
from job.teardown import Teardown, tell

Work = Callable[[Mapping[str, str], Teardown | None], Outcome]


def main(variables: Mapping[str, str], work: Work) -> ExitCode:
    """Do this pod's work and return its code; at RunPod only where a restarted container is to go on."""
    own = own_pod(variables)
    if own is None:
        outcome = work(variables, None)
        tell(outcome.sentence)
        return outcome.code
    teardown = Teardown(Provider(own))
    outcome = Outcome(ExitCode.BROKEN, "internal error")
    try:
        outcome = work(variables, teardown)
    except BaseException as error:  # noqa: BLE001 - also a library that is missing, or no memory for a sentence
        teardown.say(f"internal error: {type(error).__name__}")
    if outcome.code is ExitCode.TERMINATED:
        tell(outcome.sentence)
        return outcome.code
    teardown.say(outcome.sentence)
    with suppress(ValueError):  # not the main thread
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
    teardown.end()


def _work(variables: Mapping[str, str], teardown: Teardown | None) -> Outcome:
    # Late: an image in which a library is missing or broken has a pod to end, too.
    from job.root import work

    return work(variables, teardown)


if __name__ == "__main__":
    raise SystemExit(main(os.environ, _work))
