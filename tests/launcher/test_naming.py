"""A pod's name is read back as it was written, and nothing else is taken for one of ours."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.naming import PodName

NAMES = st.builds(
    PodName,
    namespace=st.from_regex(r"[a-z0-9]{1,16}", fullmatch=True),
    run_id=st.from_regex(r"[a-z0-9][a-z0-9-]{0,40}", fullmatch=True),
    attempt=st.integers(1, 9999),
    hard_deadline=st.integers(10**9, 10**10 - 1).map(lambda second: datetime.fromtimestamp(second, UTC)),
)


@given(NAMES)
def test_a_name_is_read_back_as_it_was_written(name: PodName) -> None:
    assert PodName.parse(str(name)) == name


@given(NAMES, NAMES)
def test_two_pods_never_share_a_name(one: PodName, other: PodName) -> None:
    assert (str(one) == str(other)) == (one == other)


@given(st.text(max_size=80) | st.text("retain-0123456789", max_size=80))
def test_what_is_read_is_what_was_written(text: str) -> None:
    found = PodName.parse(text)
    assert found is None or str(found) == text


@given(NAMES, st.floats(0, 0.999))
def test_a_name_never_says_later_than_the_deadline(name: PodName, fraction: float) -> None:
    exact = name.hard_deadline + timedelta(seconds=fraction)
    written = str(PodName(name.namespace, name.run_id, name.attempt, exact))
    read = PodName.parse(written)
    assert read is not None and exact - timedelta(seconds=1) < read.hard_deadline <= exact


@pytest.mark.parametrize(
    "text",
    [
        "",
        "retrain",
        "my-notebook",
        "retrain-demo-of-somebody",
        "retrain-default-run-1-1-",
        "retrain-default-run-1-1-soon",
        "retrain-default-run-1-1-1",
        "retrain-default-run-1-1-17672292000",
        "retrain-default-run-1-0-1767229200",
        "retrain-default-run-1-01-1767229200",
        "retrain-default--1-1-1767229200",
        "retrain-Default-run-1-1-1767229200",
        "retrain-default-run-1-1-1767229200 ",
        "retrain-default-run-1-1-1767229200\n",
        "retrain-default-run-1-1-١٧٦٧٢٢٩٢٠٠",
        "x-retrain-default-run-1-1-1767229200",
        "retrain-default-run-1-1-1767229200-copy",
        "retrain-anamespacethatistoolong-run-1-1-1767229200",
    ],
)
def test_everything_else_is_a_strangers(text: str) -> None:
    assert PodName.parse(text) is None
