"""Puts settings, adapters and core together: the one place that knows them all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from launcher.actions import World
from launcher.cli.leaks import retry_leaked, show_noted_leaks
from launcher.cli.narrator import Narrator
from launcher.cli.providers import pods_of
from launcher.ending.leaks import LeakNotes
from launcher.errors import RetrainError, StorageError, UsageError
from launcher.journal import Journal, this_launcher
from launcher.machine.clock import SystemClock
from launcher.model import RunRecord
from launcher.ports import Notifier, Store
from launcher.results.home import Home
from launcher.settings import Settings
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.s3 import S3Store
from launcher.storage.s3_config import S3Config

PULLS_AT_ONCE = 6
HASTY_ATTEMPTS = 2
HASTY_READ_SECONDS = 10.0
"""Of who can do without the store."""


@dataclass(frozen=True)
class Workplace:
    """Everything a command that touches runs needs."""

    world: World
    journal: Journal
    narrator: Narrator
    server: EmbeddedServer | None
    """The store on loopback, where no bucket is configured."""
    endpoint_url: str | None = None
    """Where `world` and `journal` look for the store."""
    guard: Callable[[RunRecord], None] = lambda _: None
    """Sees to it that an open run's pods are ended on time even if this command dies."""

    @property
    def leaks(self) -> LeakNotes:
        """Return what this workspace knows of leaked runs."""
        return LeakNotes(self.world.home.workspace)

    def mend(self) -> None:
        """Start the embedded store again if it died under a run: nobody else would.

        Raises StorageError when it is on another port now: all that this command would hear there is what a
        stranger says.
        """
        if self.server is None:
            return
        try:
            if not self.server.is_running():
                self.server.restart()
                self.narrator.say("the local store had ended; it is started again")
            moved = not self.server.is_at(self.endpoint_url)
        except RetrainError as error:
            self.narrator.say(f"the local store cannot be started again: {error}")
            return
        if moved:
            raise StorageError(
                f"The local store is no longer at {self.endpoint_url}: another program took that port. Links"
                " of a pod that runs now are dead; its attempt will be tried again.",
                next_step="`retrain attach` goes on with the run.",
            )

    def rest(self) -> None:
        """Let go of the embedded store; who leaves it last stops it when no run needs it any more."""
        if self.server is not None:
            _leave(self.server, self.journal, self.endpoint_url, self.narrator)


@contextmanager
def workplace(settings: Settings, narrator: Narrator, *, tries_leaked: bool = True) -> Iterator[Workplace]:
    """Connect to the store and the provider for as long as a command runs.

    `tries_leaked` is for all commands but the one that looks after every run anyway.
    """
    home = Home(settings.run.models_dir, settings.run.workspace)
    server = None if settings.storage.bucket else embedded_server(settings, say=narrator.say)
    config = server.connect() if server else storage_config(settings)
    store = S3Store(config)
    world = World(
        store=store,
        pods=pods_of(settings),
        clock=SystemClock(),
        notifier=narrator,
        home=home,
        pulls_at_once=PULLS_AT_ONCE,
    )

    def guard(record: RunRecord) -> None:
        from launcher.cli import watch

        watch.guard(settings, record, narrator)

    place = Workplace(world, Journal(store, this_launcher()), narrator, server, config.endpoint_url, guard)
    try:
        if tries_leaked:
            retry_leaked(place)
        else:
            show_noted_leaks(narrator, settings.run.workspace)
        yield place
    except KeyboardInterrupt:
        narrator.say("stopping here; `retrain status` shows what is on record")
        raise
    finally:
        place.rest()


@contextmanager
def store_as_it_is(settings: Settings, notifier: Notifier) -> Iterator[Store | None]:
    """Open the store for a moment, impatiently and without starting anything; None where it does not run.

    For who can do without it. Raises UsageError when a configured one has no keys, StorageError.
    """
    if settings.storage.bucket:
        yield S3Store(storage_config(settings), attempts=HASTY_ATTEMPTS, read_seconds=HASTY_READ_SECONDS)
        return
    server = embedded_server(settings, say=notifier.say)
    if not server.is_running():
        yield None
        return
    config = server.connect()
    store = S3Store(config, attempts=HASTY_ATTEMPTS, read_seconds=HASTY_READ_SECONDS)
    try:
        yield store
    finally:
        _leave(server, Journal(store, this_launcher()), config.endpoint_url, notifier)


def _leave(server: EmbeddedServer, journal: Journal, endpoint_url: str | None, notifier: Notifier) -> None:
    """Stop the embedded store unless somebody uses it, a run is open, or that cannot be told."""

    def is_needed() -> bool:
        if not server.is_at(endpoint_url):
            return True
        # One by one: a record that cannot be read is an error here, never an absence.
        return any(not journal.read(run_id).phase.closed for run_id in journal.run_ids())

    try:
        server.stop(needed=is_needed)
    except RetrainError as error:
        notifier.say(f"the embedded store goes on running: {error}")


def nothing_yet(settings: Settings) -> bool:
    """Whether no run can be on record: no bucket is configured, and the embedded store never ran here."""
    return not settings.storage.bucket and not embedded_server(settings).was_started()


def embedded_server(settings: Settings, *, say: Callable[[str], None] = lambda _: None) -> EmbeddedServer:
    """Return the store of this workspace; it is not started by that."""
    return EmbeddedServer(settings.run.workspace.resolve() / "store", say=say)


def storage_config(settings: Settings) -> S3Config:
    """Return the configured bucket with its keys. Raises UsageError when none are found."""
    storage = settings.storage
    assert storage.bucket is not None
    if storage.access_key is None or storage.secret_key is None:
        return S3Config.discover(
            storage.bucket,
            endpoint_url=storage.endpoint_url,
            pod_endpoint_url=storage.pod_endpoint_url,
            region=storage.region,
            prefix=storage.prefix,
        )
    token = storage.session_token
    return S3Config(
        bucket=storage.bucket,
        endpoint_url=storage.endpoint_url,
        pod_endpoint_url=storage.pod_endpoint_url,
        region=storage.region or "us-east-1",
        access_key=storage.access_key,
        secret_key=storage.secret_key.get_secret_value(),
        session_token=token.get_secret_value() if token else None,
        prefix=storage.prefix,
    )


def pick_run(place: Workplace, run_id: str | None) -> str:
    """Return the run a command means: the one that begins with `run_id`, else the open one, else the newest.

    A live canary that is closed has to be named: nothing of it is to be had.
    Raises UsageError when nothing, or more than one, fits.
    """
    if run_id is not None:
        # By name alone: of a run whose record cannot be read nobody may say that there is none.
        fitting = [known for known in place.journal.run_ids() if known.startswith(run_id)]
        if run_id in fitting:
            return run_id
    else:
        records = place.journal.records(place.narrator.say)
        still_open = [record.run_id for record in records if not record.phase.closed]
        fitting = still_open or [record.run_id for record in records if not record.spec.canary][-1:]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise no_run(run_id)
    raise UsageError(f"more than one run fits: {', '.join(fitting)}", next_step="name one of them")


def no_run(run_id: str | None) -> UsageError:
    """Return what to say when the run that was asked for is not on record."""
    return UsageError(
        f"there is no run {run_id}" if run_id else "there is no run yet",
        next_step="`retrain status` lists the runs, `retrain run` starts one",
    )
