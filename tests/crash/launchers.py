"""Launchers whose every call may be struck: the real loop over ports that ask the stage first."""

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from launcher.actions import World
from launcher.journal import Journal
from launcher.loop import Loop
from launcher.ports import Pods, Store
from launcher.results.home import Home

if TYPE_CHECKING:
    from tests.crash.stage import Stage

_SILENT = frozenset({"provider", "place", "presign_get", "presign_put"})
"""No requests: nothing of them can fail."""


class Killed(BaseException):
    """A SIGKILL: nothing may catch it, and nothing that is called on the way out has an effect."""


def in_this_thread(start: Callable[[], Iterator[int]], *, seconds: float) -> Generator[int]:
    """Fetch without a thread of its own, so that a case is the same each time it is played."""
    yield from start()


class Strikable(Protocol):
    """A launcher whose calls may be struck."""

    def effect(self, side: str, name: str, call: Callable[[], Any], arguments: tuple[Any, ...] = ()) -> Any:
        """Make the call, unless it is struck. Raises Killed."""
        ...


class Port:
    """A port of one launcher: each call goes through the stage."""

    def __init__(self, launcher: Strikable, side: str, target: object) -> None:
        self._launcher = launcher
        self._side = side
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name in _SILENT:
            return found
        if name == "download":
            return partial(self._download, found)

        def call(*arguments: object, **options: object) -> object:
            return self._launcher.effect(self._side, name, partial(found, *arguments, **options), arguments)

        return call

    def _download(self, real: Callable[..., Iterator[int]], *arguments: Any, **options: Any) -> Iterator[int]:
        """Every chunk is an effect: a launcher may die in the middle of a file."""
        counts = self._launcher.effect("store", "download", partial(real, *arguments, **options), arguments)
        while (count := self._launcher.effect("store", "chunk", partial(next, counts, None))) is not None:
            yield count


class Launcher:
    """One process that drives the run, until it is killed."""

    def __init__(self, stage: "Stage", number: int) -> None:
        self.name = f"launcher-{number}"
        self.dead = False
        self.restart_seconds = 0.0
        self._stage = stage
        fake = stage.fake
        store = cast(Store, Port(self, "store", fake.store))
        self.pods = cast(Pods, Port(self, "provider", fake.pods))
        world = World(store, self.pods, self, fake.notes, Home(fake.home.models_dir, fake.home.workspace))
        self.loop = Loop(world, Journal(store, self.name))

    def effect(self, side: str, name: str, call: Callable[[], Any], arguments: tuple[Any, ...] = ()) -> Any:
        """Let what is due strike, then do what was asked for, unless it struck that."""
        if self.dead:
            raise Killed
        dies_after = self._stage.strike(self)
        if self.dead:
            raise Killed
        result = self._stage.carry_out(self.name, side, name, call, arguments)
        if dies_after:
            self.dead = True
            raise Killed
        return result

    def monotonic(self) -> float:
        return self._stage.awake_seconds

    def sleep(self, seconds: float) -> None:
        self.effect("clock", "sleep", partial(self._stage.between_passes, seconds))
