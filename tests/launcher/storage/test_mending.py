"""A local store that dies under a command which follows a run: started again, or the command ends."""

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread, Timer

import pytest

from launcher.cli.narrator import Narrator
from launcher.cli.wiring import Workplace, workplace
from launcher.errors import StorageError
from launcher.loop import Loop
from launcher.settings import load_settings
from launcher.storage import embedded
from launcher.storage.embedded import EmbeddedServer
from tests.launcher.storage.servers import clean, kill, recorded
from tests.launcher.world import RUN, FakeWorld

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(
        None, {"run": {"workspace": tmp_path / ".retrain", "models_dir": tmp_path / "models"}}
    )
    with workplace(settings, Narrator()) as place:
        place.world.store.put("key", b"data")
        yield place
    clean(server_of(place))


def server_of(place: Workplace) -> EmbeddedServer:
    assert place.server is not None
    return place.server


def test_one_that_was_killed_is_started_again_where_it_was(place: Workplace) -> None:
    kill(server_of(place))
    place.mend()
    assert place.world.store.get("key")[0] == b"data"


def test_a_record_that_cannot_be_read_is_said_and_tried_again(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    path = server_of(place).folder / "server.json"
    good = path.read_bytes()
    kill(server_of(place))
    path.write_bytes(b"{")
    place.mend()
    assert "server.json cannot be read" in capsys.readouterr().err
    path.write_bytes(good)
    place.mend()
    assert place.world.store.get("key")[0] == b"data"


def test_a_port_that_is_taken_for_a_while_is_waited_for(place: Workplace) -> None:
    before = recorded(server_of(place))["ports"]
    kill(server_of(place))
    stranger = socket.create_server(("127.0.0.1", before["s3"]))
    leaving = Timer(2.0, stranger.close)
    leaving.start()
    place.mend()
    leaving.join()
    assert recorded(server_of(place))["ports"] == before
    assert place.world.store.get("key")[0] == b"data"


class _NothingHere(BaseHTTPRequestHandler):
    """A stranger's web server: taken for the store, it would say that there is no run."""

    def _no(self) -> None:
        self.send_error(404)

    do_GET = do_PUT = do_HEAD = _no  # noqa: N815 (the base class looks them up by these names)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Stay silent."""


@pytest.fixture
def stranger(place: Workplace) -> Iterator[HTTPServer]:
    """Who takes the port of the store when that ends."""
    kill(server_of(place))
    with HTTPServer(("127.0.0.1", recorded(server_of(place))["ports"]["s3"]), _NothingHere) as stranger:
        Thread(target=stranger.serve_forever, daemon=True).start()
        yield stranger
        stranger.shutdown()


def test_one_that_moved_ends_the_command_and_goes_on_itself(
    place: Workplace, stranger: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embedded, "PORT_SECONDS", 0.5)
    fake = FakeWorld(tmp_path / "fake")
    fake.start()
    loop = Loop(fake.world, fake.journal(), on_pass=lambda *_: fake.store.fail(1000), mend=place.mend)
    with pytest.raises(StorageError, match=f"no longer at {place.endpoint_url}") as caught:
        loop.drive(RUN)
    assert "retrain attach" in caught.value.next_step
    place.rest()
    assert server_of(place).is_running(), "who hears a stranger alone cannot tell that no run needs it"


def test_one_that_another_command_moved_ends_this_one_too(place: Workplace, stranger: HTTPServer) -> None:
    other = EmbeddedServer(server_of(place).folder)
    other.connect()
    other.close()
    with pytest.raises(StorageError, match="no longer at"):
        place.mend()
