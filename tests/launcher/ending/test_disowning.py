"""A launcher that asks for its pod after another one has closed the run: the pod is its own to end."""

from collections.abc import Callable, Sequence

import pytest

from launcher.errors import Leaked, PodError
from launcher.model import Phase
from launcher.ports import Pod, PodSpec
from tests.launcher.world import RUN, FakeWorld


@pytest.fixture
def overtaken(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Between its record and its request the launcher sleeps; meanwhile the run is cancelled elsewhere."""

    def prepare() -> None:
        create = fake.pods.create

        def late(spec: PodSpec) -> Pod:
            monkeypatch.setattr(fake.pods, "create", create)
            fake.later(100)
            fake.journal("launcher-2").request_cancel(RUN)
            assert fake.loop("launcher-2").drive(RUN).phase is Phase.CANCELLED
            return create(spec)

        monkeypatch.setattr(fake.pods, "create", late)
        fake.start()

    return prepare


def refusals(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    terminate = fake.pods.terminate
    left = [None] * count

    def refused(pod_id: str) -> bool:
        if left:
            left.pop()
            raise PodError("trouble")
        return terminate(pod_id)

    monkeypatch.setattr(fake.pods, "terminate", refused)


def test_it_asks_again_until_the_pod_is_gone(
    fake: FakeWorld, overtaken: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    overtaken()
    refusals(fake, monkeypatch, 3)
    assert fake.loop().drive(RUN).phase is Phase.CANCELLED
    assert len(fake.pods.bills) == 1 and fake.pods.existing == {}


def test_an_unanswered_request_is_looked_for(fake: FakeWorld, overtaken: Callable[[], None]) -> None:
    overtaken()
    fake.pods.create_arrives_late = 10.0
    fake.loop().drive(RUN)
    assert len(fake.pods.bills) == 1 and fake.pods.existing == {}


def test_a_young_pod_that_is_not_known_yet_is_not_gone(
    fake: FakeWorld, overtaken: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    overtaken()
    terminate, shown, began = fake.pods.terminate, fake.pods.list, fake.clock.slept

    def young() -> bool:
        return bool(fake.pods.bills) and (fake.store.at - fake.pods.bills["pod-1"].began).total_seconds() < 15

    def listed() -> Sequence[Pod]:
        return [] if young() else shown()

    monkeypatch.setattr(fake.pods, "terminate", lambda pod_id: young() or terminate(pod_id))
    monkeypatch.setattr(fake.pods, "list", listed)
    monkeypatch.setattr(fake.pods, "get", lambda pod_id: next(iter(listed()), None))
    fake.loop().drive(RUN)
    assert fake.clock.slept > began and fake.pods.existing == {}


@pytest.mark.parametrize("once", [False, True])
def test_what_cannot_be_ended_is_told_as_leaked(
    fake: FakeWorld, overtaken: Callable[[], None], *, once: bool
) -> None:
    overtaken()
    fake.pods.stubborn = True
    loop = fake.loop()
    with pytest.raises(Leaked, match="pod-1"):
        loop.once(RUN) if once else loop.drive(RUN)
