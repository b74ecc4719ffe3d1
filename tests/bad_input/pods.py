"""The table, part five: what a pod is given. Its job says why, ends with the code for it, trains nothing."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from job import prepare
from job.contract import keys
from job.contract.manifest import InputRole
from job.contract.reasons import Reason
from job.exits import ExitCode
from launcher.errors import Exit
from tests.bad_input.builders import pair
from tests.bad_input.models import lora, tensor_file
from tests.bad_input.packages import DAMAGED_PIXELS, NOWHERE, SOUND
from tests.bad_input.raw_zip import ENCRYPTED, SYMLINK, Member, raw_zip
from tests.job.rig import RUN, Rig, zipped

INDEX = {"model_index.json": b"{}"}
ENTRIES = 100_001


@dataclass(frozen=True)
class Attempted:
    """One way to end before training."""

    id: str
    given: Callable[[Rig], dict[str, str] | None]
    """Changes the rig; returns the pod's environment where it had to be published first."""
    reason: Reason | None
    """None: it never started, and nobody was told but the log."""
    says: tuple[str, ...]
    code: ExitCode = ExitCode.REFUSED
    home: Exit = Exit.TRAINING
    """The launcher's exit code for it."""


def dataset(data: bytes) -> Callable[[Rig], None]:
    """Give this data set."""

    def given(rig: Rig) -> None:
        rig.dataset = data

    return given


def members(*given: Member) -> Callable[[Rig], None]:
    """Give a data set of these entries beside a sound pair."""
    return dataset(raw_zip([*pair(b"good"), *given]))


def base(name: str, data: bytes) -> Callable[[Rig], None]:
    """Give this base model."""

    def given(rig: Rig) -> None:
        rig.inputs = [(InputRole.BASE_MODEL, name, data, {})]

    return given


def start(data: bytes) -> Callable[[Rig], None]:
    """Give these init weights."""

    def given(rig: Rig) -> None:
        rig.inputs.append((InputRole.INIT_WEIGHTS, "start.safetensors", data, {}))

    return given


def manifest(**changes: object) -> Callable[[Rig], dict[str, str]]:
    """Publish a manifest with fields changed."""
    return lambda rig: rig.publish(json.dumps(json.loads(rig.manifest().encode()) | changes).encode())


def tampered(rig: Rig) -> dict[str, str]:
    """Change an input in the bucket after its hash was written down."""
    variables = rig.publish()
    key = keys.input_key(RUN, "data.zip")
    rig.bucket.objects[key] = rig.bucket.objects[key][:-1] + b"?"
    return variables


def missing(rig: Rig) -> dict[str, str]:
    """Delete an input from the bucket."""
    variables = rig.publish()
    del rig.bucket.objects[keys.input_key(RUN, "data.zip")]
    return variables


def expired(part: str) -> Callable[[Rig], None]:
    """Let the store refuse the links whose key holds `part`, as it does when they have ended."""

    def given(rig: Rig) -> None:
        rig.bucket.fault = lambda request: "403" if part in request.key else None

    return given


def bad_dataset(id_: str, given: Callable[[Rig], None], *says: str) -> Attempted:
    """Return a case of a data set that the launcher should have refused."""
    return Attempted(f"pod-{id_}", given, Reason.BAD_DATASET, says, home=Exit.DATASET)


def bad_start(id_: str, data: bytes, *says: str) -> Attempted:
    """Return a case of init weights."""
    return Attempted(f"pod-{id_}", start(data), Reason.BAD_INIT_WEIGHTS, ("start.safetensors", *says))


def bad_base(id_: str, name: str, data: bytes, *says: str) -> Attempted:
    """Return a case of a base model."""
    return Attempted(f"pod-{id_}", base(name, data), Reason.BAD_BASE_MODEL, says)


def not_started(id_: str, given: Callable[[Rig], dict[str, str] | None], *says: str) -> Attempted:
    """Return a case in which nothing may be claimed."""
    return Attempted(f"pod-{id_}", given, None, says, ExitCode.NOT_STARTED)


ATTEMPTED = (
    bad_dataset("dataset-not-a-zip", dataset(b"hello"), "the dataset", "no readable zip"),
    bad_dataset("dataset-truncated", dataset(SOUND[:-30]), "the dataset", "no readable zip"),
    bad_dataset("dataset-encrypted", members(Member(b"a.png", b"x", flags=ENCRYPTED)), "a.png", "encrypted"),
    bad_dataset("dataset-traversal", members(*pair(b"../evil")), "../evil.png", "out of the folder"),
    bad_dataset("dataset-absolute", members(*pair(b"/evil")), "/evil.png", "absolute path"),
    bad_dataset("dataset-symlink", members(Member(b"a.png", b"/etc/passwd", SYMLINK)), "a.png", "a link"),
    bad_dataset("dataset-control-characters", members(*pair(b"a\x1b[2J")), "control characters"),
    bad_dataset("dataset-name-too-long", members(*pair(b"n" * 210)), "nnn", "too long"),
    bad_dataset("dataset-path-too-long", members(*pair(b"n/" * 600 + b"a")), "n/n/n", "too long"),
    bad_dataset(
        "dataset-bomb-declared",
        members(*(Member(b"%d.png" % n, b"", declared=2**31) for n in range(4))),
        "would become",
        "times its size",
    ),
    bad_dataset(
        "dataset-bomb-undeclared",
        members(Member(b"a.png", bytes(2**24), deflated=True, declared=9), Member(b"a.txt", b"x")),
        "a.png",
        "damaged",
    ),
    bad_dataset(
        "dataset-too-many-entries",
        dataset(raw_zip(Member(b"%d.png" % n) for n in range(ENTRIES))),
        f"{ENTRIES} entries",
    ),
    bad_dataset("dataset-offset-nowhere", dataset(NOWHERE), "lad_001.txt", "damaged"),
    bad_dataset("dataset-wrong-checksum", dataset(DAMAGED_PIXELS), "lad_001.png", "damaged"),
    bad_dataset("dataset-case-only", members(*pair(b"GOOD")), "good.png", "GOOD.png", "more than case"),
    bad_dataset("dataset-caption-missing", members(Member(b"a.png")), "a.png", "without a .txt caption"),
    bad_dataset("dataset-image-missing", members(Member(b"a.txt", b"x")), "a.txt", "without an image"),
    bad_dataset("dataset-empty", dataset(raw_zip([])), "holds no images"),
    bad_dataset("dataset-entry-without-a-name", dataset(raw_zip([Member(b"", b"x")])), "holds no images"),
    bad_base("base-not-a-zip", "base.zip", b"hello", "the base model", "no readable zip"),
    bad_base("base-without-index", "base.zip", zipped({"unet/x": b""}), "no model_index.json"),
    bad_base("base-traversal", "base.zip", raw_zip([Member(b"../x", b"x")]), "../x", "out of the folder"),
    bad_base("base-a-text", "base.safetensors", b"hello, world", "base.safetensors", "does not begin like"),
    bad_base("base-truncated", "base.safetensors", lora()[:-9], "base.safetensors", "shorter than its own"),
    bad_base("base-of-another-kind", "base.ckpt", b"\x80\x02", "base.ckpt", "neither a zip nor a .safe"),
    bad_base(
        "base-file-and-folder",
        "base.zip",
        raw_zip([Member(b"a", b"x"), Member(b"a/b", b"x"), Member(b"model_index.json", b"{}")]),
        "a file and a folder of the same name",
    ),
    bad_start("start-a-text", b"hello, world", "does not begin like"),
    bad_start("start-truncated", lora()[:-9], "cut short"),
    bad_start("start-no-lora", tensor_file({"a.weight": (2, 2)}), "no LoRA in kohya's format"),
    bad_start("start-of-another-rank", lora(8), "rank 8", "lora_dim is 4"),
    bad_start("start-not-a-number", lora(value=float("nan")), "not finite"),
    Attempted(
        "pod-input-tampered", tampered, Reason.BAD_INPUT, ("data.zip", "SHA-256"), home=Exit.INFRASTRUCTURE
    ),
    Attempted(
        "pod-input-missing", missing, Reason.BAD_INPUT, ("data.zip", "not in the b"), home=Exit.INFRASTRUCTURE
    ),
    Attempted(
        "pod-input-link-expired",
        expired("inputs/data.zip"),
        Reason.STORAGE_FAILED,
        ("data.zip", "link has expired"),
        ExitCode.MACHINE_FAILED,
        Exit.INFRASTRUCTURE,
    ),
    Attempted(
        "pod-trainer-unknown", manifest(trainer="kohya"), Reason.BAD_RECIPE, ("no trainer kohya",)
    ),
    not_started("manifest-of-another-major-version", manifest(v="2.0"), "schema version '2.0' is not 1.x"),
    not_started("manifest-of-no-version", manifest(v=None), "schema version"),
    not_started("manifest-not-json", lambda rig: rig.publish(b"<html>"), "not JSON"),
    not_started("manifest-recipe-out-of-range", manifest(recipe={"lora_dim": 0}), "recipe.lora_dim"),
    not_started("manifest-recipe-of-another-type", manifest(recipe=[]), "recipe"),
    not_started("manifest-of-another-attempt", manifest(attempt=2), "attempt 2"),
    not_started(
        "manifest-out-of-date",
        manifest(stop_at="2020-01-01T00:00:00Z", hard_deadline="2020-01-02T00:00:00Z"),
        "hard deadline",
        "has passed",
    ),
    not_started("manifest-link-expired", expired("manifests/"), "the manifest cannot be fetched", "HTTP 403"),
)  # fmt: skip


def lie_about_room(patch: pytest.MonkeyPatch) -> None:
    """Let the disk look empty when it is asked, as one does that others fill meanwhile."""
    patch.setattr(prepare, "free_bytes", lambda folder: 10**12)
