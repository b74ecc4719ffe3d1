"""`retrain reap`: ends pods that nobody looks after. Stateless: for people, cron, a scheduled function."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from launcher.cli.options import SettingsFlags, settings_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.ending.reap import Verdict
    from launcher.ending.reaper import Reaper, Sight
    from launcher.ports import Notifier
    from launcher.settings import Settings


@click.command("reap")
@click.option("--yes", "act", is_flag=True, help="End them. Without it they are only shown.")
@click.option(
    "--wait",
    "seconds",
    type=click.FloatRange(0, 3600),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the proof that they are gone.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--watch", "watched", metavar="RUN_ID", hidden=True)
@click.option("--until", type=int, metavar="EPOCH_SECONDS", hidden=True)
@settings_options
def command(
    *, act: bool, seconds: float, as_json: bool, watched: str | None, until: int | None, flags: SettingsFlags
) -> int:
    """Show the pods of this namespace that must end, and with --yes end them.

    Those are: pods past the hard deadline in their name, and pods whose own run's or attempt's record says
    that it is over. A record that is missing or cannot be read is a ground for nothing. Needs the provider
    and the namespace; the bucket, where one is configured and answers, says which runs are over.

    Exit code 0 when no pod is left that must end, 8 while there is one.
    """
    settings = flags.load()
    if watched is not None:
        from launcher.cli.watch import watch

        return watch(settings, watched, until)
    from launcher.cli.narrator import Narrator
    from launcher.errors import Exit

    narrator = Narrator()
    reaper = reaper_of(settings, narrator)
    sight = reaper.look()
    left = reaper.end(sight.due, seconds=seconds) if act else sight.due
    if act:
        _forget_gone(settings, reaper, sight, left)
    if act and not left:
        _show_itself(settings, narrator)
    _show(sight, left, act=act, as_json=as_json)
    return int(Exit.LEAKED if left else Exit.DONE)


def reaper_of(settings: "Settings", notifier: "Notifier", *, run_id: str | None = None) -> "Reaper":
    """Return who judges the pods of the configured provider and namespace, or those of one run."""
    from contextlib import AbstractContextManager
    from datetime import timedelta

    from launcher.cli.providers import pods_of
    from launcher.ending.reaper import Reaper
    from launcher.machine.clock import SystemClock
    from launcher.plan import create_lag_seconds
    from launcher.ports import Store

    def store() -> AbstractContextManager[Store | None]:
        # Only now: where no pod of ours is found, no store is asked, and its library is not even loaded.
        from launcher.cli.wiring import store_as_it_is

        return store_as_it_is(settings, notifier)

    return Reaper(
        pods_of(settings),
        SystemClock(),
        notifier,
        namespace=settings.run.namespace,
        run_id=run_id,
        create_lag=timedelta(seconds=create_lag_seconds(settings)),
        store=store,
    )


def _forget_gone(settings: "Settings", reaper: "Reaper", sight: "Sight", left: "Sequence[Verdict]") -> None:
    """Remove this workspace's notes of leaked pods that are proven gone, whoever ended them."""
    from launcher.ending.leaks import LeakNotes

    notes = LeakNotes(settings.run.workspace)
    noted = [note for note in notes.read() if reaper.reaches(note.provider, note.place)]
    ended = {verdict.pod.pod_id for verdict in sight.due if verdict not in left}
    others = [(note.pod_name, note.pod_id) for note in noted if note.pod_id not in ended]
    gone = reaper.forsaken(others, sight.now)
    notes.forget(note for note in noted if note.pod_id in ended or (note.pod_name, note.pod_id) in gone)


def _show_itself(settings: "Settings", notifier: "Notifier") -> None:
    """Write to a configured bucket that a reaper of rented pods was here; unattended starts look for that."""
    from launcher.settings import Provider

    if settings.storage.bucket is None or settings.run.provider is not Provider.RUNPOD:
        return
    from launcher.cli.providers import runpod_fingerprint
    from launcher.cli.wiring import store_as_it_is
    from launcher.ending.unattended import note_reaper
    from launcher.errors import RetrainError

    try:
        with store_as_it_is(settings, notifier) as store:
            if store is not None:
                note_reaper(store, settings.run.namespace, runpod_fingerprint(settings))
    except RetrainError as error:
        notifier.say(f"that this reaper was here could not be written: {error}")


def _show(sight: "Sight", left: "Sequence[Verdict]", *, act: bool, as_json: bool) -> None:
    rows = [_row(verdict, gone=act and verdict.due and verdict not in left) for verdict in sight.verdicts]
    if as_json:
        sys.stdout.write(json.dumps({"now": sight.now.isoformat(), "acted": act, "pods": rows}) + "\n")
        return
    for row in rows:
        price = f"${row['price_per_hour']:.3f} an hour"
        sys.stdout.write(f"{_word(row, act=act):<10} {row['pod_id']}  {row['name']}  {price}  {row['why']}\n")
    if not rows:
        sys.stdout.write("no pods of this namespace\n")
    for verdict in left if act else ():
        sys.stderr.write(
            f"LEAKED: pod {verdict.pod.pod_id} may still run, at ${verdict.pod.price_per_hour:.3f} an hour."
            f" End it at {verdict.pod.console_url or 'its provider'}, or try again.\n"
        )
    if left and not act:
        sys.stderr.write("nothing was ended; `retrain reap --yes` ends what must end\n")


def _word(row: dict[str, Any], *, act: bool) -> str:
    if not row["due"]:
        return "leave"
    if not act:
        return "would end"
    return "gone" if row["gone"] else "NOT GONE"


def _row(verdict: "Verdict", *, gone: bool) -> dict[str, Any]:
    """Return what docs/json.md says of a pod."""
    pod, name = verdict.pod, verdict.name
    return {
        "pod_id": pod.pod_id,
        "name": pod.name,
        "run_id": name.run_id,
        "attempt": name.attempt,
        "hard_deadline": name.hard_deadline.isoformat(),
        "price_per_hour": pod.price_per_hour,
        "console_url": pod.console_url or None,
        "due": verdict.due,
        "gone": gone,
        "why": verdict.why,
    }
