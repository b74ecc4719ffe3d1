"""Ends what a launcher asked for too late: when the pod came, the run was another launcher's.

That one may have given the attempt up, or closed the run, before any list showed the pod. So nobody else
looks for it any more, and who asked for it stays until it is proven gone. Knows the ports.
"""

from collections.abc import Iterable

from launcher.errors import Leaked, PodError
from launcher.model import Attempt, Clocks
from launcher.ports import Clock, Notifier, Pods


def disown(
    attempt: Attempt, pod_ids: Iterable[str], clocks: Clocks, pods: Pods, clock: Clock, notifier: Notifier
) -> None:
    """End every pod of an attempt's name, and those of `pod_ids`, and return when all are confirmed gone.

    Absence counts once a late pod has had the time to show. Raises Leaked when that takes too long.
    """
    began = clock.monotonic()
    known, acknowledged = set(pod_ids), set[str]()
    while True:
        try:
            known |= {pod.pod_id for pod in pods.find(attempt.pod_name)}
            acknowledged |= {pod_id for pod_id in sorted(known) if pods.terminate(pod_id)}
            shown = bool(pods.find(attempt.pod_name)) or any(pods.get(pod_id) for pod_id in known)
        except PodError as error:
            shown = True
            notifier.say(f"pod {attempt.pod_name} came too late and could not be ended yet: {error}")
        waited = clock.monotonic() - began
        if not shown and known <= acknowledged and waited > clocks.create_lag_seconds:
            return
        if waited > clocks.leak_seconds:
            raise Leaked(
                f"LEAKED: pod {', '.join(sorted(known)) or attempt.pod_name} was asked for too late, belongs"
                " to no run any more and could not be confirmed gone",
                pods={attempt.pod_name: sorted(known)},
                on_record=False,
                next_step="end it in the provider's console; `retrain reap --yes` ends it, too",
            )
        clock.sleep(clocks.poll_seconds)
