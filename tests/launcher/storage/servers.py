"""Real local stores in tests: found, killed, and their records changed, as the world does it."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from launcher.storage import daemons, weed
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.local_ports import Ports

CONNECT = """
import sys
from pathlib import Path
from launcher.storage.embedded import EmbeddedServer
print(EmbeddedServer(Path(sys.argv[1])).connect().endpoint_url)
"""
"""A launcher that uses the store of a folder."""


def pids(server: EmbeddedServer) -> tuple[int, ...]:
    return tuple(daemon.pid for daemon in daemons.of_folder(server.folder))


def kill(server: EmbeddedServer) -> None:
    """End it the hard way, as a power cut would."""
    for pid in pids(server):
        process = psutil.Process(pid)
        process.kill()
        process.wait(10)


def recorded(server: EmbeddedServer) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((server.folder / "server.json").read_bytes())
    return fields


def rerecord(server: EmbeddedServer, change: Callable[[dict[str, Any]], None]) -> None:
    fields = recorded(server)
    change(fields)
    (server.folder / "server.json").write_text(json.dumps(fields))


def clean(server: EmbeddedServer) -> None:
    """End it and leave nothing of it on this machine, whatever became of its record."""
    kill(server)
    with suppress(OSError, ValueError, KeyError, TypeError):
        weed.remove_sockets(Ports.from_json(recorded(server)["ports"]))
