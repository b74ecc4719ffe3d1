"""A workspace that can rent at a simulated RunPod, in real time: account, registry of images, bucket."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.storage.s3 import S3Store
from tests.simulators.registry import Registry, serving
from tests.simulators.runpod import Simulator


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as made:
        made.push("team/retrain", "v1", "amd64")
        yield made


@pytest.fixture
def cloud() -> Iterator[Simulator]:
    with Simulator() as made:
        yield made


@pytest.fixture
def place(
    cloud: Simulator,
    registry: Registry,
    embedded_store: S3Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A workspace in which nothing is missing."""
    for name in [name for name in os.environ if name.startswith(("RETRAIN_", "AWS_", "RUNPOD_"))]:
        monkeypatch.delenv(name)
    config = embedded_store.config
    monkeypatch.chdir(tmp_path)
    settings = {
        "HOME": str(tmp_path),
        "RUNPOD_API_BASE_URL": cloud.serve(),
        "RUNPOD_API_KEY": cloud.account_key,
        "RETRAIN_RUN__PROVIDER": "runpod",
        "RETRAIN_RUN__NAMESPACE": "mine",
        "RETRAIN_POD__IMAGE": f"{registry.host}/team/retrain:v1",
        "RETRAIN_STORAGE__BUCKET": config.bucket,
        "RETRAIN_STORAGE__ENDPOINT_URL": str(config.endpoint_url),
        "RETRAIN_STORAGE__PREFIX": config.prefix,
        "AWS_ACCESS_KEY_ID": config.access_key,
        "AWS_SECRET_ACCESS_KEY": config.secret_key,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
