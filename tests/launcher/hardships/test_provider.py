"""Unclear and clear refusals of a provider, and what they cost."""

import pytest

from launcher.errors import (
    CreateRefused,
    Exit,
    PodError,
)
from launcher.model import Phase, charged_dollars
from launcher.outcome import outcome
from launcher.ports import Pod, PodSpec
from tests.launcher.world import RUN, FakeWorld


def test_an_unclear_error_of_create_is_no_refusal(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.start()
    real = fake.pods.create

    def unclear(spec: PodSpec) -> Pod:
        monkeypatch.setattr(fake.pods, "create", real)
        real(spec)
        raise PodError("502")

    monkeypatch.setattr(fake.pods, "create", unclear)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and len(fake.pods.created) == 1
    assert charged_dollars(record.attempts[0], fake.store.now()) > 0


def test_refusals_without_end_end_the_run(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: PodSpec) -> Pod:
        raise CreateRefused("a wrong request")

    monkeypatch.setattr(fake.pods, "create", refuse)
    record = fake.run()
    assert record.phase is Phase.FAILED and outcome(record).exit_code is Exit.INFRASTRUCTURE
    assert sum(charged_dollars(item, fake.store.now()) for item in record.attempts) == 0


def test_two_pods_of_one_name_are_charged_twice(fake: FakeWorld) -> None:
    fake.start()
    fake.loop().once(RUN)
    fake.pods.create(fake.pods.created[0])
    record = fake.loop().once(RUN)
    attempt = record.attempts[0]
    fake.later(3600)
    assert len(attempt.pod_ids) == 2 and charged_dollars(attempt, fake.store.now()) >= 1.0
