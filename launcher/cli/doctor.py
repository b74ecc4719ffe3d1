"""`retrain doctor`: what is missing before a run, one line for each with its fix."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from launcher.cli.options import SettingsFlags, settings_options

if TYPE_CHECKING:
    from launcher.settings import Settings
    from launcher.storage.probe import Finding

TRAINING_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors")
FREE_BYTES_WANTED = 5 * 1024**3
"""For the embedded example with room to spare: inputs, checkpoints, states, the store's copies."""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of the findings.")
@settings_options
def command(*, as_json: bool, flags: SettingsFlags) -> int:
    """Check that this machine can run what is configured; nothing is started but the embedded store.

    Exit code 0 when nothing is missing, 6 otherwise.
    """
    from launcher.cli.leaks import show_noted_leaks
    from launcher.cli.narrator import Narrator
    from launcher.errors import Exit

    settings = flags.load()
    show_noted_leaks(Narrator(), settings.run.workspace)
    findings = list(_findings(settings))
    if as_json:
        sys.stdout.write(json.dumps(findings) + "\n")
    else:
        for item in findings:
            mark = {True: "ok", False: "MISSING", None: "unknown"}[item["ok"]]
            fix = f"; {item['fix']}" if item["fix"] else ""
            sys.stdout.write(f"{mark:<8} {item['check']}: {item['detail']}{fix}\n")
    return Exit.INFRASTRUCTURE if any(item["ok"] is False for item in findings) else Exit.DONE


def _findings(settings: "Settings") -> Iterator[dict[str, Any]]:
    from launcher.errors import RetrainError
    from launcher.staging import find_source
    from launcher.storage.checkup import SERVER, check_leftovers, check_up

    yield _libraries()
    yield _disk(settings)
    try:
        source = find_source(settings)
        yield _finding("inputs", ok=True, detail=f"{source.dataset}, {source.base_model}")
    except RetrainError as error:
        yield _finding("inputs", ok=False, detail=str(error), fix=error.next_step)
    silent = False
    if settings.storage.bucket is None:
        for item in check_up(settings.run.workspace / "store"):
            # Asking on would take minutes.
            silent = silent or (item.check == SERVER and item.ok is False)
            yield _of(item)
    if not silent:
        yield from _storage(settings)
    if settings.storage.bucket is None:
        for item in check_leftovers():
            yield _of(item)


def _storage(settings: "Settings") -> Iterator[dict[str, Any]]:
    from launcher.cli.narrator import Narrator
    from launcher.cli.wiring import workplace
    from launcher.errors import RetrainError
    from launcher.storage.probe import probe
    from launcher.storage.s3 import S3Store

    try:
        with workplace(settings, Narrator()) as place:
            assert isinstance(place.world.store, S3Store)
            for item in probe(place.world.store):
                yield _of(item, check=f"storage, {item.check}")
            still_open = [
                record.run_id
                for record in place.journal.records(place.narrator.say)
                if not record.phase.closed
            ]
            yield _finding("open runs", ok=True, detail=", ".join(still_open) or "none")
    except RetrainError as error:
        yield _finding("storage", ok=False, detail=str(error), fix=error.next_step)


def _libraries() -> dict[str, Any]:
    missing = [name for name in TRAINING_LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        fix = "install them: pip install 'retrain[local]'"
        return _finding("training libraries", ok=False, detail=f"no {', '.join(missing)}", fix=fix)
    return _finding("training libraries", ok=True, detail=", ".join(TRAINING_LIBRARIES))


def _disk(settings: "Settings") -> dict[str, Any]:
    folder = settings.run.workspace.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free in {folder}"
    if free < FREE_BYTES_WANTED:
        return _finding(
            "disk", ok=False, detail=detail, fix=f"make room: {FREE_BYTES_WANTED / 1e9:.0f} GB are wanted"
        )
    return _finding("disk", ok=True, detail=detail)


def _of(item: "Finding", *, check: str | None = None) -> dict[str, Any]:
    return _finding(check or item.check, ok=item.ok, detail=item.detail, fix=item.fix)


def _finding(check: str, *, ok: bool | None, detail: str, fix: str = "") -> dict[str, Any]:
    return {"check": check, "ok": ok, "detail": detail, "fix": fix}
