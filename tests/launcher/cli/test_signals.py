"""Signals that ask a command to go."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.cli import init, signals
from launcher.cli.root import execute
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


def test_a_failure_right_after_a_signal_is_its_doing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As when it comes in the middle of a library that wraps every error in its own."""

    def wrapped(**_: object) -> None:
        try:
            kill_ourselves(signal.SIGTERM)
        except AskedToGo as asked:
            raise ValueError(f"not serializable: {asked}") from None

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(init.command, "callback", wrapped)
    heed()
    assert execute(["init"]) == 143
    assert capsys.readouterr().err == "retrain: interrupted\n" and not [*tmp_path.rglob("crash-*")]
    monkeypatch.setattr(signals, "LATELY_SECONDS", 0.0)
    assert signals.asked_lately() is None


def test_what_the_caller_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    heed()
    kill_ourselves(signal.SIGHUP)
    assert interrupted_code(KeyboardInterrupt()) == 130
