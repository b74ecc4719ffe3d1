"""Signals that ask a command to go."""

import os
import signal
from collections.abc import Iterator

import pytest

from launcher.cli import signals
from launcher.cli.signals import AskedToGo, heed, interrupted_code


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def kill_ourselves(number: int) -> None:
    os.kill(os.getpid(), number)


def test_one_departure_is_asked_for_once_and_again_when_it_was_not_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heed()
    with pytest.raises(AskedToGo) as caught:
        kill_ourselves(signal.SIGHUP)
    assert interrupted_code(caught.value) == 129
    kill_ourselves(signal.SIGTERM)  # the terminal's second word
    monkeypatch.setattr(signals, "REPEAT_SECONDS", 0.0)
    with pytest.raises(AskedToGo) as caught:
        kill_ourselves(signal.SIGTERM)
    assert interrupted_code(caught.value) == 143


def test_what_the_caller_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    heed()
    kill_ourselves(signal.SIGHUP)
    assert interrupted_code(KeyboardInterrupt()) == 130
