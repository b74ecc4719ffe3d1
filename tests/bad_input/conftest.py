"""The place in which the table's cases are tried."""

import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.storage.embedded import EmbeddedServer
from tests.bad_input.place import Place


@pytest.fixture
def place(
    tmp_path: Path,
    embedded_server: EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Place:
    """An empty working directory, no settings in the environment, a bucket on the one shared server."""
    for name in list(os.environ):
        if name.startswith(("RETRAIN_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    config = replace(embedded_server.connect(), prefix=f"bad-{secrets.token_hex(6)}/")
    return Place(tmp_path, config, capsys, monkeypatch)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte; skips where only root could make one and we are not."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("a small disk can be made by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
