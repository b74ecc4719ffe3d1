"""What doctor finds out about a bucket."""

from dataclasses import replace
from typing import Any

import pytest

from launcher.checkup import Finding
from launcher.storage.probe import probe
from launcher.storage.s3 import S3Store

pytestmark = pytest.mark.slow


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_a_good_store_passes_and_nothing_is_left(embedded_store: S3Store) -> None:
    findings = probe(embedded_store)
    assert [finding.ok for finding in findings] == [True] * 7
    assert not any(finding.fix for finding in findings)
    assert embedded_store.list("") == []


def test_a_store_that_cannot_be_written_is_the_only_finding(embedded_store: S3Store) -> None:
    (finding,) = probe(S3Store(replace(embedded_store.config, secret_key="wrong")))
    assert finding.ok is False
    assert finding.fix


def test_a_pods_endpoint_that_is_not_seen_from_here_is_unknown(embedded_store: S3Store) -> None:
    findings = by_check(probe(S3Store(replace(embedded_store.config, pod_endpoint_url="http://127.0.0.1:9"))))
    assert findings["presigned links"].ok is None
    assert findings["create-only link"].ok is None
    assert findings["list and delete"].ok is True


def test_a_store_that_ignores_conditions_is_found_out(embedded_store: S3Store) -> None:
    def forget(params: dict[str, Any], **_: Any) -> None:
        for name in ("If-None-Match", "If-Match"):
            params["headers"].pop(name, None)

    embedded_store._client.meta.events.register("before-call.s3.PutObject", forget)
    findings = by_check(probe(embedded_store))
    assert findings["create-only write"].ok is False
    assert findings["write if unchanged"].ok is False
    assert findings["write if unchanged"].fix
    assert findings["presigned links"].ok is True


def test_a_condition_that_is_not_signed_is_found_out(embedded_store: S3Store) -> None:
    def forget(params: dict[str, Any], **_: Any) -> None:
        params.pop("IfNoneMatch", None)

    embedded_store._presigner.meta.events.register("provide-client-params.s3.PutObject", forget)
    finding = by_check(probe(embedded_store))["create-only link"]
    assert finding.ok is False
    assert "left out" in finding.detail


def test_a_clock_that_is_off_is_found_out(embedded_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    right = embedded_store.now
    monkeypatch.setattr(embedded_store, "now", lambda: right().replace(year=2020))
    finding = by_check(probe(embedded_store))["clock"]
    assert finding.ok is False
    assert "NTP" in finding.fix
