"""Staging and pull-back beside s5cmd: the same server, the same bytes, the same disk.

Ours is the product's own code in a launcher that runs already; s5cmd is a whole process with its defaults,
less its own start. Ours does more, and that is in its time: what goes up is packed and hashed; what comes
home is hashed, compared with its receipt, synced to the disk and renamed. A second ratio has s5cmd's files
hashed and synced, too, by the plainest means.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from launcher.storage.embedded import EmbeddedServer
from launcher.storage.s3_config import S3Config
from tests.bench.far import far_away
from tests.bench.figures import Figure, Sample, Side, alternating, speed_ratios, spread, timed
from tests.bench.opponent import S5cmd, find_s5cmd
from tests.bench.ours import Ours, Pull

GROUP = "transfers"
FAR = "transfers, far away"
SPEED = "speed of s5cmd = 1"
SAFE_SPEED = "speed of s5cmd, its files then hashed and synced, = 1"
ROUND_TRIP_SECONDS = 0.03
BYTES_PER_SECOND = 20e6
"""Of one connection."""
UP, DOWN = 0.75, 0.9
"""What is aimed at."""


@dataclass(frozen=True)
class Load:
    """Files to carry."""

    name: str
    files: int
    bytes_each: int
    captions: bool = False
    """Whether each comes with a caption, as in a data set."""

    def __str__(self) -> str:
        each = self.bytes_each
        size = f"{each / 1e6:.0f} MB" if each >= 1e6 else f"{each / 1e3:.0f} kB"
        return f"{self.files} files of {size}" + (" with captions" if self.captions else "")


@dataclass
class Field:
    """Where both sides meet: one server, one disk."""

    folder: Path
    ours: Ours
    s5cmd: S5cmd
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def files(self, load: Load) -> Path:
        """Return a folder with the load, made when it is not there."""
        folder = self.folder / load.name.replace(" ", "-")
        if not folder.exists():
            folder.mkdir(parents=True)
            for number in range(load.files):
                (folder / f"{number:05d}.png").write_bytes(secrets.token_bytes(load.bytes_each))
                if load.captions:
                    (folder / f"{number:05d}.txt").write_text(f"picture number {number}")
        return folder

    def fresh(self) -> Path:
        """Return a new empty folder; what is still to be written for others is on the disk by then."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        os.sync()
        folder = self.folder / "out" / str(next(self.numbers))
        folder.mkdir(parents=True)
        return folder

    def prefix(self) -> str:
        """Return a new prefix."""
        return f"bench/{next(self.numbers)}"


def measure(folder: Path, *, quick: bool) -> Iterator[Figure]:
    """Yield the figures; nothing without s5cmd."""
    binary = find_s5cmd()
    if binary is None:
        return
    server = EmbeddedServer(folder / "store")
    try:
        near = server.connect()
        yield from _near(folder / "near", near, binary, quick=quick)
        with far_away(near, round_trip=ROUND_TRIP_SECONDS, bytes_per_second=BYTES_PER_SECOND) as far:
            yield from _far(folder / "far", far, binary, quick=quick)
    finally:
        server.stop()


def _near(folder: Path, config: S3Config, binary: Path, *, quick: bool) -> Iterator[Figure]:
    field = Field(folder, Ours(config), S5cmd(binary, config))
    large = Load("large files", 2 if quick else 3, 30_000_000 if quick else 150_000_000)
    small = Load("small files", 100 if quick else 400, 30_000)
    data = Load("data set", 100 if quick else 400, 30_000, captions=True)
    pairs = 2 if quick else 5
    ours = field.ours
    yield from _up(field, large, ours.upload_each, pairs, GROUP, at_least=UP)
    yield from _up(field, data, ours.upload_packed, pairs, GROUP, at_least=UP, how=" of small files")
    yield from _down(field, large, ours.vouch_each, pairs, GROUP, at_least=DOWN)
    yield from _down(field, small, ours.vouch_packed, pairs, GROUP, at_least=DOWN, how=", as samples")
    yield from _down(field, small, ours.vouch_each, pairs, GROUP, how=", an object each")


def _far(folder: Path, config: S3Config, binary: Path, *, quick: bool) -> Iterator[Figure]:
    field = Field(folder, Ours(config), S5cmd(binary, config))
    large = Load("large files", 2, 40_000_000 if quick else 80_000_000)
    small = Load("small files", 100, 30_000)
    pairs = 1 if quick else 3
    yield from _up(field, large, field.ours.upload_each, pairs, FAR)
    yield from _down(field, large, field.ours.vouch_each, pairs, FAR)
    yield from _down(field, small, field.ours.vouch_each, pairs, FAR, how=", an object each")


def _up(
    field: Field,
    load: Load,
    upload: Callable[[Path, str], None],
    pairs: int,
    group: str,
    *,
    at_least: float | None = None,
    how: str = "",
) -> Iterator[Figure]:
    files = field.files(load)

    def ours() -> Sample:
        os.sync()
        return timed(lambda: upload(files, field.prefix()))

    def theirs() -> Sample:
        os.sync()
        return field.s5cmd.upload(files, field.prefix())

    a, b = alternating(ours, theirs, pairs=pairs)
    yield Figure(
        group=group,
        name=f"{load.name}{how} up",
        **spread(speed_ratios(a, b)),
        means=SPEED,
        at_least=at_least,
        sides=(Side.of("retrain", a), Side.of("s5cmd", b)),
        note=str(load),
    )


def _down(
    field: Field,
    load: Load,
    vouch: Callable[[Path], Pull],
    pairs: int,
    group: str,
    *,
    at_least: float | None = None,
    how: str = "",
) -> Iterator[Figure]:
    files, prefix = field.files(load), field.prefix()
    pull = vouch(files)
    field.s5cmd.upload(files, prefix)
    care: list[float] = []

    def ours() -> Sample:
        home = field.fresh()
        sample = timed(lambda: pull(home))
        _compare(files, home)
        return sample

    def theirs() -> Sample:
        home = field.fresh()
        sample = field.s5cmd.download(prefix, home)
        care.append(timed(lambda: _hash_and_sync(home)).seconds)
        return sample

    a, b = alternating(ours, theirs, pairs=pairs)
    sides = (Side.of("retrain", a), Side.of("s5cmd", b))
    name = f"{load.name}{how} down"
    yield Figure(
        group=group,
        name=name,
        **spread(speed_ratios(a, b)),
        means=SPEED,
        at_least=at_least,
        sides=sides,
        note=str(load),
    )
    careful = [Sample(b.seconds + extra, 0) for b, extra in zip(b, care[1:], strict=True)]
    yield Figure(
        group=group,
        name=f"{name}, like with like",
        **spread(speed_ratios(a, careful)),
        means=SAFE_SPEED,
        sides=(sides[0], Side.of("s5cmd, hashed and synced", careful)),
        note=str(load),
    )


def _hash_and_sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                hashlib.file_digest(file, "sha256")
                os.fsync(file.fileno())


def _compare(there: Path, here: Path) -> None:
    """Make sure that all came: who brings less is no faster."""
    wanted = sum(path.stat().st_size for path in there.iterdir())
    kept = (path for path in here.rglob("*") if path.is_file() and not path.name.startswith("."))
    found = sum(path.stat().st_size for path in kept if path.suffix != ".zip")
    if wanted != found:
        raise RuntimeError(f"{found} of {wanted} bytes came home")
