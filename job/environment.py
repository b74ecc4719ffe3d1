"""What the pod's environment tells the job. Parsed once; all its problems are told together."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from job.contract.manifest import (
    DEADLINE_VARIABLE,
    MANIFEST_URL_VARIABLE,
    POD_ID_VARIABLE,
    SCRATCH_VARIABLE,
)

PROVIDER_POD_ID_VARIABLE = "RUNPOD_POD_ID"
PROVIDER_KEY_VARIABLE = "RUNPOD_API_KEY"
"""Injected by the provider, scoped to the pod: for the pod's own end alone, hidden in all that is said."""
PROVIDER_API_VARIABLE = "RUNPOD_API_BASE_URL"
"""The name by which RunPod's own tools know where both of its APIs are, v2 and GraphQL."""
PROVIDER_API = "https://api.runpod.io"


class EnvironmentProblem(Exception):
    """The environment cannot be used; the text lists everything that is wrong with it, without values."""


@dataclass(frozen=True)
class OwnPod:
    """The pod at RunPod that this process runs in, as the provider tells it."""

    pod_id: str
    key: SecretStr
    """Empty where none was injected."""
    api: str
    """What both APIs' paths are added to."""


@dataclass(frozen=True)
class Environment:
    """The pod's environment, checked."""

    manifest_url: SecretStr
    deadline: datetime
    pod_id: str
    scratch: Path
    scratch_is_ours: bool
    """Whether the scratch folder is to be removed at the end."""
    secrets: tuple[str, ...] = field(repr=False)


def parse(variables: Mapping[str, str]) -> Environment:
    """Read the variables. Raises EnvironmentProblem."""
    problems: list[str] = []
    url = variables.get(MANIFEST_URL_VARIABLE, "")
    if not _is_url(url):
        problems.append(
            f"{MANIFEST_URL_VARIABLE} is not an http or https URL" if url else _unset(MANIFEST_URL_VARIABLE)
        )
    deadline = _moment(variables.get(DEADLINE_VARIABLE, ""), problems)
    pod_id = variables.get(POD_ID_VARIABLE) or variables.get(PROVIDER_POD_ID_VARIABLE) or ""
    if not pod_id:
        problems.append(f"neither {POD_ID_VARIABLE} nor {PROVIDER_POD_ID_VARIABLE} is set")
    if problems:
        raise EnvironmentProblem("; ".join(problems))
    assert deadline is not None
    given = variables.get(SCRATCH_VARIABLE)
    return Environment(
        manifest_url=SecretStr(url),
        deadline=deadline,
        pod_id=pod_id,
        scratch=Path(given) if given else Path(tempfile.mkdtemp(prefix="retrain-job-")),
        scratch_is_ours=not given,
        secrets=tuple(filter(None, (url, _key(variables)))),
    )


def own_pod(variables: Mapping[str, str]) -> OwnPod | None:
    """Return the pod that has to end itself, None where the provider sees its main process end.

    A provider without ids of its own gave this pod one. RunPod's variables then tell of the machine around
    it, which is somebody else's.
    """
    pod_id = variables.get(PROVIDER_POD_ID_VARIABLE, "")
    if not pod_id or variables.get(POD_ID_VARIABLE):
        return None
    api = variables.get(PROVIDER_API_VARIABLE, "")
    return OwnPod(pod_id, SecretStr(_key(variables)), api.rstrip("/") if _is_url(api) else PROVIDER_API)


def describe_machine() -> dict[str, str]:
    """Return hints about this machine for the `booted` event."""
    hints = {"cpus": str(os.cpu_count() or 0), "system": os.uname().sysname, "machine": os.uname().machine}
    for name in ("RUNPOD_DC_ID", "RUNPOD_GPU_COUNT", "RUNPOD_GPU_NAME"):
        if os.environ.get(name):
            hints[name.lower()] = os.environ[name][:100]
    return hints


def _key(variables: Mapping[str, str]) -> str:
    return variables.get(PROVIDER_KEY_VARIABLE, "").strip()


def _moment(text: str, problems: list[str]) -> datetime | None:
    if not text:
        problems.append(_unset(DEADLINE_VARIABLE))
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        problems.append(f"{DEADLINE_VARIABLE} is no ISO 8601 time")
        return None
    if moment.tzinfo is None:
        problems.append(f"{DEADLINE_VARIABLE} has no time zone")
        return None
    return moment.astimezone(UTC)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _unset(name: str) -> str:
    return f"{name} is not set"
