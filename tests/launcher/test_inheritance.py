"""What a new attempt takes over passes through this machine's disk, which may fail."""

import errno
from pathlib import Path

import pytest

from launcher.errors import LocalDiskError
from launcher.inheritance import inherit
from tests.launcher.world import RUN, FakeWorld


def test_a_disk_that_fails_while_a_state_goes_up_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWorld(tmp_path)
    fake.start()
    fake.until_a_checkpoint()

    def unreadable(_path: Path, _key: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fake.store, "upload", unreadable)
    with pytest.raises(LocalDiskError, match=r"resume_state.* cannot be read: Input/output error"):
        inherit(
            fake.journal().read(RUN),
            fake.store,
            fake.home,
            fake.world.notifier,
            on_bytes=lambda _name, _count: None,
        )
    assert not list(fake.home.scratch().iterdir())
