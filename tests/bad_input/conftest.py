"""The place in which the table's cases are tried."""

import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from botocore.loaders import JSONFileLoader

from launcher.storage.embedded import EmbeddedServer
from launcher.storage.s3 import S3Store
from tests.bad_input.place import Place
from tests.job.conftest import bucket as bucket
from tests.job.conftest import rig as rig


@pytest.fixture(scope="session")
def whole_bucket(embedded_server: EmbeddedServer) -> S3Store:
    """The shared server's bucket, to look into: a client costs a fifth of a second to make."""
    return S3Store(embedded_server.connect())


@pytest.fixture
def place(
    tmp_path: Path,
    whole_bucket: S3Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Place:
    """An empty working directory, no settings in the environment, a bucket on the one shared server."""
    for name in list(os.environ):
        if name.startswith(("RETRAIN_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(JSONFileLoader, "load_file", _load_once)
    config = replace(whole_bucket.config, prefix=f"bad-{secrets.token_hex(6)}/")
    return Place(tmp_path, config, whole_bucket, capsys, monkeypatch)


_load = cache(JSONFileLoader().load_file)


def _load_once(_: JSONFileLoader, file_path: str) -> object:
    """Parse botocore's description of S3 once: half of what a hundred commands in one process would do."""
    return _load(file_path)


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
