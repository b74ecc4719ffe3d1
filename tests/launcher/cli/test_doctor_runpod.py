"""`retrain doctor` for RunPod: what can be missing before the first night, each with its fix."""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import doctor as doctor_module
from launcher.cli.providers import canary_pods, runpod_api, runpod_key
from launcher.cli.root import execute
from launcher.errors import PodError
from launcher.settings import load_settings
from launcher.storage.s3 import S3Store
from tests.simulators.registry import Registry
from tests.simulators.runpod import Operation, Simulator, Trouble

Doctor = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def doctor(place: None, capsys: pytest.CaptureFixture[str]) -> Doctor:
    def see(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
        code = execute(["doctor", "--json", *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        found = json.loads(out)
        assert all(set(item) == {"check", "ok", "detail", "fix"} for item in found)
        return code, {item["check"]: item for item in found}

    return see


def missing(found: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, item in found.items() if item["ok"] is False}


def test_nothing_is_missing_and_nothing_is_rented(doctor: Doctor, cloud: Simulator) -> None:
    cloud.add_stranger("notebook")
    code, found = doctor()
    assert code == 0, found
    assert not missing(found)
    assert found["runpod, key"]["detail"] == "accepted; 1 pods in the account, 0 of them retrain's"
    assert "$100.00 left" in found["runpod, balance"]["detail"]
    assert "NVIDIA A40 SECURE $0.4" in found["runpod, GPUs"]["detail"]
    assert "from RunPod" in found["runpod, clock"]["detail"]
    assert found["storage, credentials"]["ok"]
    assert found["storage, create-only link"]["ok"]
    assert found["image"]["ok"]
    assert found["unattended start"]["ok"] is None
    reads = {Operation.LIST, Operation.GPUS, Operation.MYSELF}
    assert {record.operation for record in cloud.records} <= reads


def test_no_line_shows_a_secret(
    doctor: Doctor, cloud: Simulator, embedded_store: S3Store, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(["doctor"])
    told = "".join(capsys.readouterr())
    for secret in (cloud.account_key, embedded_store.config.secret_key, "X-Amz-Signature"):
        assert secret not in told


def test_no_key_is_told_with_where_to_make_one(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY")
    monkeypatch.setattr("launcher.pods.runpod_account.stored_key", lambda: None)
    code, found = doctor()
    assert code == 6
    assert "RUNPOD_API_KEY" in found["runpod"]["fix"]
    assert found["storage, reachable"]["ok"]


def test_a_key_that_is_refused_is_told_once(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_wrong")
    code, found = doctor()
    assert code == 6
    assert missing(found) == {"runpod, key"}
    assert "runpod, balance" not in found


@pytest.mark.parametrize(("dollars", "ok"), [(0.0, False), (0.2, False), (1.0, None), (50.0, True)])
def test_the_balance_is_held_against_an_hour_and_the_cap(
    doctor: Doctor, cloud: Simulator, dollars: float, ok: bool | None
) -> None:
    cloud.set_balance(dollars)
    found = doctor()[1]["runpod, balance"]
    assert found["ok"] is ok
    assert bool(found["fix"]) is (ok is not True)


def test_a_balance_that_cannot_be_read_counts_as_the_settings_say(doctor: Doctor, cloud: Simulator) -> None:
    cloud.trouble(Trouble.BAD_GATEWAY, Operation.MYSELF, times=None)
    assert doctor()[1]["runpod, balance"]["ok"] is False
    assert doctor("--set", "runpod.require_balance=false")[1]["runpod, balance"]["ok"] is None


def test_no_canary_is_rented_by_a_balance_that_cannot_be_read(place: None, cloud: Simulator) -> None:
    cloud.trouble(Trouble.BAD_GATEWAY, Operation.MYSELF, times=None)
    for needed in (True, False):
        settings = load_settings(overrides={"runpod": {"require_balance": needed}})
        with runpod_api(runpod_key(settings)) as api:
            pods = canary_pods(settings, api)
            if needed:
                with pytest.raises(PodError):
                    pods.offers()
            else:
                assert pods.offers()


def test_an_unknown_gpu_is_named_with_the_one_that_is_meant(doctor: Doctor) -> None:
    found = doctor("--set", "runpod.gpus=NVIDIA A4O")[1]["runpod, GPUs"]
    assert found["ok"] is False
    assert "NVIDIA A40" in found["detail"]


def test_a_ceiling_below_every_price_is_told(doctor: Doctor) -> None:
    found = doctor("--set", "budget.price_ceiling=0.01")[1]["runpod, GPUs"]
    assert found["ok"] is False
    assert "price_ceiling" in found["fix"]


def test_no_image_and_no_bucket_are_told(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRAIN_POD__IMAGE")
    assert "pod.image" in doctor()[1]["configuration"]["fix"]
    monkeypatch.setenv("RETRAIN_POD__IMAGE", "team/retrain:v1")
    monkeypatch.delenv("RETRAIN_STORAGE__BUCKET")
    monkeypatch.delenv("RETRAIN_STORAGE__ENDPOINT_URL")
    monkeypatch.setattr("launcher.pods.registry.check_image", lambda *_, **__: iter(()))
    found = doctor()[1]
    assert "storage.bucket" in found["configuration"]["fix"]
    assert not Path(".retrain/store").exists()


def test_an_image_that_is_not_there_is_told(doctor: Doctor, registry: Registry) -> None:
    assert "image" in missing(doctor("--set", f"pod.image={registry.host}/team/other:v1")[1])


@pytest.mark.parametrize(("hours", "ok"), [(10.5, False), (11.5, True)])
def test_keys_that_end_before_the_longest_run_are_told(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, hours: float, *, ok: bool
) -> None:
    ends = datetime.now(UTC) + timedelta(hours=hours)
    monkeypatch.setattr(
        "launcher.storage.s3_config.S3Config.discover", _temporary(monkeypatch, ends), raising=True
    )
    found = doctor("--set", "budget.max_hours=10")[1]["storage, credentials"]
    assert found["ok"] is ok
    assert bool(found["fix"]) is not ok


def _temporary(monkeypatch: pytest.MonkeyPatch, ends: datetime) -> Callable[..., Any]:
    """Return a way to find keys that end; the local store takes a token for what it is, no matter."""
    from dataclasses import replace

    from launcher.storage.s3_config import S3Config

    found = S3Config.discover

    def discover(*arguments: Any, **named: Any) -> S3Config:
        return replace(found(*arguments, **named), session_token="token", credentials_expire_at=ends)

    monkeypatch.setattr(S3Config, "_client", _without_token(S3Config._client))
    return discover


def _without_token(make: Callable[..., Any]) -> Callable[..., Any]:
    from dataclasses import replace

    return lambda config, *arguments: make(replace(config, session_token=None), *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("dead", ["runpod", "registry"])
def test_who_does_not_answer_does_not_make_it_hang(
    doctor: Doctor, cloud: Simulator, registry: Registry, monkeypatch: pytest.MonkeyPatch, dead: str
) -> None:
    monkeypatch.setattr(doctor_module, "PATIENCE_SECONDS", 15.0)
    release = threading.Event()
    if dead == "runpod":
        cloud.trouble(Trouble.TIMEOUT, times=None)
    else:
        registry.silent = release
    started = time.monotonic()
    code, found = doctor()
    release.set()
    assert time.monotonic() - started < 50
    assert code == 6
    assert missing(found) - {"open runs"} == {"image" if dead == "registry" else "runpod"}
    assert found["storage, reachable"]["ok"]


def test_a_canary_needs_a_cap_of_its_own(
    doctor: Doctor, cloud: Simulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_BUDGET__CAP_DOLLARS", "1")
    assert execute(["doctor", "--live-canary"]) == 2
    assert "--cap 0.10" in capsys.readouterr().err
    assert execute(["doctor", "--live-canary", "--cap", "0.1", "--provider", "process"]) == 2
    assert not cloud.pods
