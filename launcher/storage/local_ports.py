"""On which ports of this machine the local store listens: chosen free, kept, given up when taken.

Knows sockets; nothing of what listens there.
"""

import random
import socket
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from launcher.errors import UsageError

HOST = "127.0.0.1"
GRPC_OFFSET = 10_000
"""weed's own: every HTTP port has a gRPC port this much higher."""
_PORTS = range(11_000, 21_000)
"""With their gRPC ports below Linux's ephemeral range (32768 and up), where any connection may sit."""


@dataclass(frozen=True)
class Ports:
    """Where the server's parts listen, all on loopback."""

    s3: int
    master: int
    filer: int
    volume: int

    @classmethod
    def choose(cls) -> Self:
        """Take free ports at random. Raises UsageError when there are none."""
        return cls(*_choose(len(fields(cls))))

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> Self:
        """Read what was kept; another version's further ports are of no use. Raises KeyError, ValueError."""
        return cls(**{field.name: int(read[field.name]) for field in fields(cls)})

    def taken(self) -> tuple[int, ...]:
        """Return those that somebody listens on, here or at their gRPC port."""
        return tuple(port for port in asdict(self).values() if not _is_free(port))

    def without(self, taken: tuple[int, ...]) -> Self:
        """Return these ports with the taken ones chosen anew. Raises UsageError when there are none."""
        fresh = iter(_choose(len(taken), but=tuple(asdict(self).values())))
        values = {name: next(fresh) if port in taken else port for name, port in asdict(self).items()}
        return type(self)(**values)


def _choose(count: int, *, but: tuple[int, ...] = ()) -> list[int]:
    chosen: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(chosen) == count:
            break
        if port not in but and _is_free(port):
            chosen.append(port)
    if len(chosen) < count:
        raise UsageError(
            f"Fewer than {count} ports between {_PORTS.start} and {_PORTS.stop} are free with the port"
            f" {GRPC_OFFSET} above them, so the local store cannot start.",
            next_step="End what listens there (`ss -ltnp` lists it), or configure a bucket in retrain.toml.",
        )
    return chosen


def _is_free(port: int) -> bool:
    # weed refuses a port that is taken on any interface, though it listens on loopback alone.
    return all(_can_bind(host, number) for host in (HOST, "") for number in (port, port + GRPC_OFFSET))


def _can_bind(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As weed binds: connections of a server that just ended (TIME_WAIT) do not make its port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
