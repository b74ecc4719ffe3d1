"""`retrain doctor`: what is missing before a run, one line for each with its fix."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from launcher.checkup import Check, Finding, ask_all, failed
from launcher.cli.options import SettingsFlags, settings_options
from launcher.errors import RetrainError, UsageError

if TYPE_CHECKING:
    from launcher.cli.wiring import Workplace
    from launcher.settings import Settings
    from launcher.storage.s3 import S3Store

TRAINING_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors")
PATIENCE_SECONDS = 60.0
"""For everybody else's answers altogether; they are asked side by side."""
FREE_BYTES_WANTED = 5 * 1024**3
"""For the embedded example with room to spare: inputs, checkpoints, states, the store's copies."""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of the findings.")
@click.option(
    "--live-canary",
    is_flag=True,
    help="Rent a pod for a few minutes to prove that it ends itself. Costs up to --cap, which must be given.",
)
@click.option(
    "--bill-wait",
    "bill_minutes",
    type=click.FloatRange(0, 240),
    default=6.0,
    show_default=True,
    metavar="MINUTES",
    help="After the canary: how long to wait for the provider's bill.",
)
@settings_options
def command(*, as_json: bool, live_canary: bool, bill_minutes: float, flags: SettingsFlags) -> int:
    """Check that this machine can run what is configured; nothing that costs is started.

    Exit code 0 when nothing is missing, 6 otherwise. With --live-canary 0 when a pod was seen to end itself,
    6 when it was not, 8 when it may still run.
    """
    from launcher.cli.leaks import show_noted_leaks
    from launcher.cli.narrator import Narrator
    from launcher.errors import Exit

    settings = flags.load()
    show_noted_leaks(Narrator(), settings.run.workspace)
    if live_canary:
        if "cap_dollars" not in flags.overrides.get("budget", {}):
            raise UsageError("a live canary costs money", next_step="say how much at most: --cap 0.10")
        from launcher.cli.canary import live_canary as fly

        return fly(settings, bill_minutes=bill_minutes, as_json=as_json)
    found = []
    for item in _findings(settings):
        found.append(asdict(item))
        if not as_json:
            mark = {True: "ok", False: "MISSING", None: "unknown"}[item.ok]
            fix = f"; {item.fix}" if item.fix else ""
            sys.stdout.write(f"{mark:<8} {item.check}: {item.detail}{fix}\n")
            sys.stdout.flush()
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    return Exit.INFRASTRUCTURE if any(item["ok"] is False for item in found) else Exit.DONE


def _findings(settings: "Settings") -> Iterator[Finding]:
    from launcher.settings import Provider
    from launcher.staging import find_source

    if settings.run.provider is Provider.PROCESS:
        yield _libraries()
    yield _disk(settings)
    try:
        source = find_source(settings)
        yield Finding("inputs", ok=True, detail=f"{source.dataset}, {source.base_model}")
    except RetrainError as error:
        yield failed("inputs", error)
    if settings.storage.bucket is None:
        yield from _local_storage(settings)
    yield from ask_all(_remote(settings), seconds=PATIENCE_SECONDS)


def _local_storage(settings: "Settings") -> Iterator[Finding]:
    from launcher.settings import Provider
    from launcher.storage.checkup import SERVER, check_leftovers, check_up

    if settings.run.provider is not Provider.RUNPOD:
        silent = False
        for item in check_up(settings.run.workspace / "store"):
            # Asking on would take minutes.
            silent = silent or (item.check == SERVER and item.ok is False)
            yield item
        if not silent:
            try:
                yield from _local_store(settings)
            except RetrainError as error:
                yield failed("storage", error)
    yield from check_leftovers()


def _remote(settings: "Settings") -> Iterator[Check]:
    """Yield the checks that ask somebody else, who may be slow."""
    from launcher.settings import Provider

    if settings.run.provider is not Provider.PROCESS:
        yield Check("configuration", lambda: _configuration(settings))
    if settings.storage.bucket is not None:
        yield Check("storage", lambda: _bucket(settings))
        yield Check("open runs", lambda: _runs(settings))
    if settings.run.provider is Provider.DOCKER:
        yield Check("docker", lambda: _engine(settings))
    if settings.run.provider is not Provider.RUNPOD:
        return
    if settings.pod.image:
        yield Check("image", lambda: _image(settings))
    yield Check("runpod", lambda: _account(settings))
    if settings.storage.bucket is not None:
        yield Check("unattended start", lambda: _unattended(settings))


def _configuration(settings: "Settings") -> Iterator[Finding]:
    from launcher.cli.providers import require_startable

    require_startable(settings)
    yield Finding("configuration", ok=True, detail=f"provider {settings.run.provider.value}")


def _engine(settings: "Settings") -> Iterator[Finding]:
    from launcher.cli.providers import docker_pods

    pods = docker_pods(settings)
    pods.require_usable()
    yield Finding("docker", ok=True, detail=", ".join(offer.name for offer in pods.offers()))
    image = settings.pod.image
    if image and pods.has_image(image):
        yield Finding("image", ok=True, detail=f"{image} is on the engine")
    elif image:
        yield Finding("image", ok=None, detail=f"{image} is not on the engine", fix="the first run pulls it")


def _image(settings: "Settings") -> Iterator[Finding]:
    from launcher.pods.registry import check_image

    yield from check_image(settings.pod.image, credential=settings.runpod.registry)


def _account(settings: "Settings") -> Iterator[Finding]:
    from launcher.cli.providers import runpod_account
    from launcher.pods.runpod_checkup import check_account

    yield from check_account(runpod_account(settings))


def _unattended(settings: "Settings") -> Iterator[Finding]:
    from launcher.cli.attendance import demand_of
    from launcher.cli.wiring import storage_config
    from launcher.ending.unattended import require_proof
    from launcher.storage.s3 import S3Store

    try:
        detail = require_proof(S3Store(storage_config(settings)), demand_of(settings))
    except UsageError as error:
        # Nothing is missing for a run that somebody watches.
        yield Finding("unattended start", ok=None, detail=str(error), fix=error.next_step)
    else:
        yield Finding("unattended start", ok=True, detail=detail)


def _bucket(settings: "Settings") -> Iterator[Finding]:
    from launcher.cli.wiring import storage_config
    from launcher.storage.probe import check_credentials
    from launcher.storage.s3 import S3Store

    store = S3Store(storage_config(settings))
    yield from _probed(store)
    longest = timedelta(hours=settings.budget.max_hours)
    yield replace(check_credentials(store.config, store.now(), longest), check="storage, credentials")


def _runs(settings: "Settings") -> Iterator[Finding]:
    """Yield which runs are open. What is leaked is tried again first, as by every command."""
    from launcher.cli.narrator import Narrator
    from launcher.cli.wiring import workplace

    try:
        with workplace(settings, Narrator()) as place:
            yield _open_runs(place)
    except RetrainError as error:
        # Why that is so stands in another line.
        yield Finding("open runs", ok=None, detail=f"cannot be looked at: {error}", fix=error.next_step)


def _local_store(settings: "Settings") -> Iterator[Finding]:
    from launcher.cli.narrator import Narrator
    from launcher.cli.wiring import workplace
    from launcher.storage.s3 import S3Store

    with workplace(settings, Narrator()) as place:
        assert isinstance(place.world.store, S3Store)
        yield from _probed(place.world.store)
        yield _open_runs(place)


def _probed(store: "S3Store") -> Iterator[Finding]:
    from launcher.storage.probe import probe

    for item in probe(store):
        yield replace(item, check=f"storage, {item.check}")


def _open_runs(place: "Workplace") -> Finding:
    records = place.journal.records(place.narrator.say)
    still_open = [record.run_id for record in records if not record.phase.closed]
    return Finding("open runs", ok=True, detail=", ".join(still_open) or "none")


def _libraries() -> Finding:
    missing = [name for name in TRAINING_LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        fix = "install them: pip install 'retrain[local]'"
        return Finding("training libraries", ok=False, detail=f"no {', '.join(missing)}", fix=fix)
    return Finding("training libraries", ok=True, detail=", ".join(TRAINING_LIBRARIES))


def _disk(settings: "Settings") -> Finding:
    folder = settings.run.workspace.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free in {folder}"
    if free < FREE_BYTES_WANTED:
        return Finding(
            "disk", ok=False, detail=detail, fix=f"make room: {FREE_BYTES_WANTED / 1e9:.0f} GB are wanted"
        )
    return Finding("disk", ok=True, detail=detail)
