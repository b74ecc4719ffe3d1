"""Composition root: makes the world that `job/lifecycle.py` works in, and turns its end into an outcome.

The hard deadline is armed first of all, before the first byte is fetched: from then on this process and its
children end at it, whatever hangs. How it ends is decided here: with a code, or at RunPod by ending the pod.
"""

import logging
import os
import shutil
import signal
from collections.abc import Mapping

from job import environment, lifecycle
from job.clock import Clock
from job.contract.reasons import Reason
from job.contract.recipe import TrainerName
from job.desk import Drawer, World
from job.errors import AlreadyOverError, JobError, NotStartedError, TerminatedError
from job.evaluate.drawing import draw_command
from job.exits import ExitCode, Outcome, exit_code
from job.patience import Stop
from job.redaction import Redactor
from job.supervise import Children
from job.teardown import Teardown, tell
from job.telemetry import Periodic
from job.trainers.base import Trainer
from job.trainers.diffusers import DiffusersTrainer
from job.transfer import Transfer
from job.watchdog import Watchdog

TRAINERS: Mapping[TrainerName, Trainer] = {TrainerName.DIFFUSERS: DiffusersTrainer()}
ORPHANS_SECONDS = 5.0
"""How often ended processes are let go that others left to this one."""
DEADLINE = Outcome(ExitCode.HARD_DEADLINE, "the hard deadline has come")


def work(
    variables: Mapping[str, str],
    teardown: Teardown | None,
    trainers: Mapping[TrainerName, Trainer] = TRAINERS,
    drawer: Drawer = draw_command,
) -> Outcome:
    """Do this pod's work. With a `teardown` the hard deadline ends the pod, else this process."""
    try:
        surroundings = environment.parse(variables)
    except environment.EnvironmentProblem as problem:
        return Outcome(ExitCode.NOT_STARTED, str(problem))
    clock, children, stop = Clock(), Children(), Stop()
    too_late = JobError(Reason.HARD_DEADLINE, DEADLINE.sentence)

    def kill_children() -> None:
        # Where this process stays, its main thread takes their end for what it is.
        stop.request(too_late)
        children.kill()

    watchdog = Watchdog(
        clock,
        surroundings.deadline,
        kill_children=kill_children,
        end=lambda: _end_at_deadline(teardown),
    )
    watchdog.arm()
    # Libraries log request URLs at INFO, and those are secrets.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    redact = Redactor(surroundings.secrets)
    world = World(
        environment=surroundings,
        clock=clock,
        watchdog=watchdog,
        stop=stop,
        children=children,
        redact=redact,
        transfer=Transfer(clock.store_says),
        trainers=trainers,
        drawer=drawer,
        provider=teardown.provider if teardown is not None else None,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: world.terminate())
    Periodic("orphans", ORPHANS_SECONDS, children.reap_orphans).start()
    try:
        code = lifecycle.run(world)
    except TerminatedError as error:
        return Outcome(ExitCode.TERMINATED, error.message)
    except NotStartedError as error:
        return Outcome(ExitCode.NOT_STARTED, redact(error.message))
    except AlreadyOverError as error:
        return Outcome(ExitCode.ALREADY_OVER, error.message)
    except JobError as error:
        return Outcome(exit_code(error.reason), redact(error.message))
    except Exception as error:  # noqa: BLE001 - a traceback would show URLs
        return Outcome(ExitCode.BROKEN, redact(f"internal error: {type(error).__name__}: {error}"))
    finally:
        if surroundings.scratch_is_ours:
            shutil.rmtree(surroundings.scratch, ignore_errors=True)
        watchdog.disarm()
    return Outcome(code, f"ended: {code.name.lower()}")


def _end_at_deadline(teardown: Teardown | None) -> None:
    if teardown is not None:
        teardown.say(DEADLINE.sentence)
        teardown.end()
    tell(DEADLINE.sentence)
    os._exit(DEADLINE.code)
