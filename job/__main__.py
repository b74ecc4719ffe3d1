"""Composition root: environment in, exit code out (`job/exits.py` lists the codes).

The hard deadline is armed first of all, before the first byte is fetched: from then on this process and its
children end at it, whatever hangs. How a pod ends itself is decided here, by the watchdog's `end`.
"""

import logging
import os
import shutil
import signal
import sys
from collections.abc import Mapping

from job import environment, lifecycle
from job.clock import Clock
from job.contract.recipe import TrainerName
from job.desk import Drawer, World
from job.errors import AlreadyOverError, JobError, NotStartedError, TerminatedError
from job.evaluate.drawing import draw_command
from job.exits import ExitCode, exit_code
from job.patience import Stop
from job.redaction import Redactor
from job.supervise import Children
from job.trainers.base import Trainer
from job.trainers.diffusers import DiffusersTrainer
from job.transfer import Transfer
from job.watchdog import Watchdog

TRAINERS: Mapping[TrainerName, Trainer] = {TrainerName.DIFFUSERS: DiffusersTrainer()}


def main(
    variables: Mapping[str, str],
    trainers: Mapping[TrainerName, Trainer] = TRAINERS,
    drawer: Drawer = draw_command,
) -> ExitCode:
    """Do this pod's work."""
    try:
        surroundings = environment.parse(variables)
    except environment.EnvironmentProblem as problem:
        return _end(ExitCode.NOT_STARTED, str(problem))
    clock, children, stop = Clock(), Children(), Stop()
    watchdog = Watchdog(
        clock,
        surroundings.deadline,
        kill_children=children.kill,
        end=lambda: os._exit(_end(ExitCode.HARD_DEADLINE, "the hard deadline has come")),
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
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: world.terminate())
    try:
        code = lifecycle.run(world)
    except TerminatedError as error:
        return _end(ExitCode.TERMINATED, error.message)
    except NotStartedError as error:
        return _end(ExitCode.NOT_STARTED, redact(error.message))
    except AlreadyOverError as error:
        return _end(ExitCode.ALREADY_OVER, error.message)
    except JobError as error:
        return _end(exit_code(error.reason), redact(error.message))
    except Exception as error:  # noqa: BLE001 - a traceback would show URLs
        return _end(ExitCode.BROKEN, redact(f"internal error: {type(error).__name__}: {error}"))
    finally:
        if surroundings.scratch_is_ours:
            shutil.rmtree(surroundings.scratch, ignore_errors=True)
        watchdog.disarm()
    return _end(code, f"ended: {code.name.lower()}")


def _end(code: ExitCode, sentence: str) -> ExitCode:
    sys.stderr.write(f"retrain job: {sentence}\n")
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    raise SystemExit(main(os.environ))
