"""A store that is far away: a relay in front of a near one, with a round trip and a limit per connection.

It relays bytes and understands none of them. Run as a process, so that it takes no time from who is measured:

    python -m tests.bench.far UPSTREAM_PORT ROUND_TRIP_SECONDS BYTES_PER_SECOND

prints the port it listens on and works until its standard input ends.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from urllib.parse import urlsplit

from launcher.storage.s3_config import S3Config
from tests.bench.machine import ROOT

CHUNK_BYTES = 64 << 10
ON_THE_WAY = 32
"""Chunks between a sender and its receiver: the window of a connection, 2 MiB."""


@contextmanager
def far_away(config: S3Config, *, round_trip: float, bytes_per_second: float) -> Iterator[S3Config]:
    """Lend the same bucket at a distance."""
    near = urlsplit(str(config.endpoint_url))
    with subprocess.Popen(
        [sys.executable, "-m", __spec__.name, str(near.port), str(round_trip), str(bytes_per_second)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as relay:
        assert relay.stdin is not None and relay.stdout is not None
        try:
            port = int(relay.stdout.readline())
            yield replace(config, endpoint_url=f"http://127.0.0.1:{port}")
        finally:
            relay.stdin.close()
            relay.wait(timeout=10)


async def _serve(upstream: int, round_trip: float, rate: float) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # at the end; asyncio would complain of each
            await carry(reader, writer)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(round_trip)  # of the handshake, which loopback answered at once
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", upstream)
        await asyncio.gather(
            _flow(reader, upstream_writer, round_trip / 2, rate),
            _flow(upstream_reader, writer, round_trip / 2, rate),
        )

    server = await asyncio.start_server(relay, "127.0.0.1", 0, limit=CHUNK_BYTES)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.buffer.read)


async def _flow(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float, rate: float
) -> None:
    """Pass on one direction: a chunk leaves when the one before is through, and arrives `delay` later."""
    road: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=ON_THE_WAY)

    async def deliver() -> None:
        while True:
            due, data = await road.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not data:
                return
            target.write(data)
            await target.drain()

    arriving = asyncio.create_task(deliver())
    free_at = 0.0
    with suppress(ConnectionError):
        while data := await source.read(CHUNK_BYTES):
            free_at = max(free_at, time.monotonic()) + len(data) / rate
            await road.put((free_at + delay, data))
    await road.put((free_at + delay, b""))
    with suppress(ConnectionError):
        await arriving
    target.close()


def main(arguments: list[str]) -> None:
    """Relay until standard input ends."""
    upstream, round_trip, rate = arguments
    with suppress(asyncio.CancelledError):
        asyncio.run(_serve(int(upstream), float(round_trip), float(rate)))


if __name__ == "__main__":
    main(sys.argv[1:])
