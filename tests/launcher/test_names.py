"""One open run for each name, and no name blocked by a launcher that died before its run was on record."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.journal import RECORD_FOLLOWS_SECONDS, this_launcher
from launcher.machine.processes import ProcessIdentity
from tests.launcher.world import OUTPUT, FakeWorld


@pytest.fixture
def fake(tmp_path: Path) -> FakeWorld:
    return FakeWorld(tmp_path)


def take_the_name_alone(fake: FakeWorld, holder: str) -> None:
    """Leave a launcher's traces as they are between its lock on the name and its record."""

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fake.journal(holder).create(fake.record(), prepare=die)


def ended_launcher() -> str:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(process.pid).to_json()
    process.communicate(b"")
    return json.dumps({**json.loads(this_launcher()), **identity})


def test_a_name_whose_launcher_died_before_its_record_is_free_at_once(fake: FakeWorld) -> None:
    take_the_name_alone(fake, ended_launcher())
    assert not fake.journal().is_open(OUTPUT)
    fake.start()
    assert fake.journal().is_open(OUTPUT)


@pytest.mark.parametrize("holder", [this_launcher(), "another machine's"], ids=["alive", "unknown"])
def test_a_name_whose_launcher_may_live_is_waited_for(fake: FakeWorld, holder: str) -> None:
    take_the_name_alone(fake, holder)
    assert fake.journal().is_open(OUTPUT)
    fake.later(RECORD_FOLLOWS_SECONDS + 1)
    assert not fake.journal().is_open(OUTPUT)
