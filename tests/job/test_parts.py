"""The small parts: tensors, redaction, clocks, the log, state tars, room, scores."""

import json
import math
import struct
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.clock import Clock
from job.contract.manifest import SamplePrompt
from job.contract.reasons import Reason
from job.contract.tensors import MalformedError, inspect, is_complete, read_header
from job.errors import JobError
from job.evaluate.scores import score
from job.exits import ExitCode, exit_code
from job.files import fresh_folder
from job.patience import TransientError
from job.prepare import Room
from job.redaction import Redactor
from job.state import pack
from job.telemetry import LogTail, Periodic
from job.unpack import unpack_tar
from job.watchdog import Watchdog

UP, DOWN = "lora_unet_x.lora_up.weight", "lora_unet_x.lora_down.weight"


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]], *, tail: bytes = b"") -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data + tail


def bf16(values: list[float]) -> bytes:
    return (np.array(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()


ENCODED = {
    "F16": lambda values: np.array(values, "<f2").tobytes(),
    "F32": lambda values: np.array(values, "<f4").tobytes(),
    "BF16": bf16,
}


@pytest.mark.parametrize("dtype", ENCODED)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_every_value_is_looked_at(tmp_path: Path, dtype: str, bad: float | None) -> None:
    values = [0.5, -2.0, 0.0, 1.0 if bad is None else bad]
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        safetensors(
            {UP: (dtype, [2, 2], ENCODED[dtype](values)), DOWN: (dtype, [2, 1], ENCODED[dtype]([1, 1]))}
        )
    )
    found = inspect(path)
    assert found.not_finite == (() if bad is None else (UP,))
    assert found.ranks == {2} and not found.untrained


def test_zero_ups_mean_untrained(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors({UP: ("F32", [1, 1], b"\0" * 4), DOWN: ("F32", [1, 1], b"\0\0\x80\x3f")}))
    assert inspect(path).untrained


def test_complete_means_the_very_size(tmp_path: Path) -> None:
    whole = safetensors({UP: ("F32", [1, 1], b"\0" * 4)})
    path = tmp_path / "x.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert not is_complete(path)
    path.write_bytes(whole)
    assert is_complete(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(MalformedError):
        is_complete(path)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 20,
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 4) + b"[[[[",
        struct.pack("<Q", 12) + b'{"a":[1,2]} ',
        safetensors({UP: ("F32", [3], b"\0" * 4)}),
        safetensors({UP: ("F32", [-1], b"")}),
    ],
)
def test_headers_that_lie(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(MalformedError):
        read_header(path)


@given(st.text(alphabet="abc ?&=/:'\"\n", max_size=30), st.text(alphabet="abc ?&/:'\"\n", max_size=30))
def test_a_query_never_survives(before: str, after: str) -> None:
    signature = "0123456789abcdef0123456789abcdef"
    url = f"https://bucket.example/runs/x?X-Amz-Credential=AK%2Fone&X-Amz-Signature={signature}"
    redact = Redactor(["pod-key"])
    redact.learn_urls([url])
    said = redact(f"{before} {url} {after} {signature} pod-key")
    assert signature not in said and "pod-key" not in said and "AK%2Fone" not in said
    assert "https://bucket.example/runs/x?" in said


def test_redaction_leaves_ordinary_text_alone() -> None:
    text = "steps: 50%|█ | 2/4 [00:13<00:41, 1.2s/it, avr_loss=1.15] epoch 1/2 saved /a/b.safetensors?"
    assert Redactor()(text) == text


def test_the_clock_only_moves_ahead() -> None:
    wall, ticks = [1000.0], [0.0]
    clock = Clock(lambda: wall[0], lambda: ticks[0])
    at = clock.now()
    wall[0] -= 500
    ticks[0] += 10
    assert clock.now() == at + timedelta(seconds=10), "set back: the monotonic clock counts on"
    wall[0] += 4000
    assert clock.now() == at + timedelta(seconds=3500), "after a laptop's sleep"
    clock.store_says(clock.now() + timedelta(seconds=100))
    assert clock.now() == at + timedelta(seconds=3600), "behind the store"
    clock.store_says(at)
    assert clock.now() == at + timedelta(seconds=3600), "ahead of the store"


def test_the_watchdog_kills_then_ends_and_stops_once() -> None:
    clock = Clock()
    done: list[str] = []
    ended = threading.Event()

    def end() -> None:
        done.append("end")
        ended.set()

    watchdog = Watchdog(
        clock,
        clock.now() + timedelta(hours=1),
        kill_children=lambda: done.append("kill"),
        end=end,
    )
    watchdog.at_stop(clock.now(), lambda: done.append("stop"))
    watchdog.arm()
    watchdog.no_later_than(clock.now() + timedelta(seconds=0.6))
    watchdog.no_later_than(clock.now() + timedelta(hours=2))
    assert ended.wait(60)
    assert done == ["stop", "kill", "end"]


def test_children_that_cannot_be_killed_do_not_stop_the_watchdog() -> None:
    ended = threading.Event()

    def kill() -> None:
        raise JobError(Reason.STALLED, "no")

    clock = Clock()
    watchdog = Watchdog(clock, clock.now(), kill_children=kill, end=ended.set)
    hook, threading.excepthook = threading.excepthook, lambda args: None
    try:
        watchdog.arm()
        assert ended.wait(60)
    finally:
        threading.excepthook = hook


def test_a_clock_that_fails_for_a_moment_does_not_stop_the_watchdog() -> None:
    failures = [MemoryError(), OSError(), ValueError()]
    ended = threading.Event()

    def wall() -> float:
        if failures and threading.current_thread().name == "watchdog":
            raise failures.pop()
        return time.time()

    clock = Clock(wall)
    Watchdog(clock, clock.now(), kill_children=lambda: None, end=ended.set).arm()
    assert ended.wait(60) and not failures


def test_the_log_keeps_the_end() -> None:
    log = LogTail(str, limit=20)
    for number in range(100):
        log.add(f"line {number}")
    assert log.text() == "line 98\nline 99\n"
    log.add("10%", rewritten=True)
    log.add("20%", rewritten=True)
    log.add("done")
    assert log.end(2) == "line 99\ndone"
    sent: list[bytes] = []
    log.send(sent.append)
    log.send(sent.append)
    assert len(sent) == 1


def test_telemetry_outlives_its_errors() -> None:
    calls: list[int] = []
    enough = threading.Event()

    def action() -> None:
        calls.append(1)
        if len(calls) >= 3:
            enough.set()
        raise TransientError("down")

    periodic = Periodic("test", 0.01, action)
    periodic.start()
    assert enough.wait(60)
    periodic.close(last=True)


def test_a_state_tar_is_the_same_for_the_same_content(tmp_path: Path) -> None:
    archives = []
    for name, mode in (("one", 0o600), ("two", 0o644)):
        folder = fresh_folder(tmp_path / name)
        for file in ("z.bin", "a/b.json") if name == "one" else ("a/b.json", "z.bin"):
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(file.encode())
            (folder / file).chmod(mode)
        pack(folder, tmp_path / f"{name}.tar")
        archives.append((tmp_path / f"{name}.tar").read_bytes())
    assert archives[0] == archives[1]
    unpack_tar(tmp_path / "one.tar", fresh_folder(tmp_path / "back"))
    assert (tmp_path / "back/a/b.json").read_bytes() == b"a/b.json"


def test_room_is_refused_with_figures() -> None:
    room = Room({"for 5 checkpoints": 190_000_000, "of inputs unpacked": 2_500_000_000, "for samples": 0})
    room.check(room.needed)
    with pytest.raises(JobError) as caught:
        room.check(room.needed - 1)
    assert caught.value.reason is Reason.DISK_FULL
    assert caught.value.message == (
        "2.7 GB are free on the disk, an estimated 2.7 GB are needed: "
        "190 MB for 5 checkpoints, 2.5 GB of inputs unpacked"
    )


def test_scores_count_over_the_prompts_that_ask() -> None:
    def prompt(name: str, **asked: str) -> SamplePrompt:
        return SamplePrompt(name=name, prompt="", seed=0, asked=asked)

    prompts = [
        prompt("a", hat="red", skin="pale"),
        prompt("b", hat="blue"),
        prompt("c", shoe="left"),
        prompt("d"),
    ]
    readings = {
        "a": {"hat": "red", "skin": "unclear"},
        "b": {"hat": "red", "skin": "pale"},
        "c": {"hat": "red"},
        "d": {},
    }
    scores = score(["hat", "skin"], prompts, readings)
    assert {name: (one.hits, one.n) for name, one in scores.items()} == {"hat": (1, 2), "skin": (0, 1)}
    assert 0 < scores["hat"].low < 0.5 < scores["hat"].high < 1


def test_every_reason_of_the_job_has_an_exit_code() -> None:
    for reason in list(Reason)[: list(Reason).index(Reason.HARD_DEADLINE) + 1]:
        assert exit_code(reason) is not ExitCode.BROKEN


def test_deadlines_are_in_utc() -> None:
    assert Clock().now().tzinfo is UTC
    assert abs((Clock().now() - datetime.now(UTC)).total_seconds()) < 60
