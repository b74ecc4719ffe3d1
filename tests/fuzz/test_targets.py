"""Every target under hypothesis, for seconds in each run of the tests; `make fuzz` goes on from there."""

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bad_input.packages import NOWHERE
from tests.bad_input.raw_zip import Member, raw_zip
from tests.fuzz import __main__ as driver
from tests.fuzz import targets
from tests.fuzz.seeds import seeds

EXAMPLES = 40
EDITS_MAX = 6


def tar_with_a_nul() -> bytes:
    """Return a tar whose extended header names a file with a NUL in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("n" * 120)
        archive.addfile(member, io.BytesIO())
    return buffer.getvalue().replace(b"path=nnn", b"path=n\0n", 1)


FOUND = {
    "zip-offset-nowhere": ("package_bytes", lambda: NOWHERE),
    "zip-entry-without-a-name": ("package_bytes", lambda: raw_zip([Member(b"", b"x")])),
    "tar-name-with-a-nul": ("resume_state", tar_with_a_nul),
}
"""What fuzzing found, each once a traceback."""


@cache
def starts(name: str) -> tuple[bytes, ...]:
    """Return a target's seeds, made once."""
    return seeds(name)


@st.composite
def edited(draw: st.DrawFn, name: str) -> bytes:
    """Draw a seed with some of its bytes replaced, repeated, cut out or put in."""
    data = draw(st.sampled_from(starts(name)))
    for _ in range(draw(st.integers(0, EDITS_MAX))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        put = draw(st.one_of(st.binary(max_size=8), st.just(data[start:end] * 2), st.just(b"")))
        data = data[:start] + put + data[end:]
    return data


@pytest.mark.slow
@pytest.mark.parametrize("name", targets.TARGETS)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.one_of(edited(name), st.binary(max_size=200)))
    def attempt(data: bytes) -> None:
        targets.TARGETS[name](data)

    attempt()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_target_has_seeds_that_get_somewhere(name: str) -> None:
    assert starts(name)
    for seed in starts(name):
        targets.TARGETS[name](seed)


@pytest.mark.parametrize(("target", "make"), FOUND.values(), ids=FOUND)
def test_what_was_found_is_mended(target: str, make: Callable[[], bytes]) -> None:
    targets.TARGETS[target](make())


def test_a_target_lets_a_finding_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that swallows everything finds nothing."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    for name in ("check", "decode", "load_settings", "is_complete", "decode_log", "unpack"):
        monkeypatch.setattr(targets, name, broken)
    for name in (
        "package_bytes",
        "package_files",
        "samples",
        "tensors",
        "manifest",
        "messages",
        "events",
        "settings",
    ):
        with pytest.raises(ZeroDivisionError):
            targets.TARGETS[name](starts(name)[0])


@pytest.mark.slow
def test_the_driver_keeps_and_names_what_it_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an engine that finds something at once: the real one is for Linux and some Pythons alone."""
    monkeypatch.chdir(tmp_path)
    engine = tmp_path / "engine.py"
    engine.write_text(
        "import sys, pathlib\n"
        "prefix = next(a.split('=')[1] for a in sys.argv if a.startswith('-artifact_prefix'))\n"
        "pathlib.Path(prefix + 'crash-1').write_bytes(b'{}')\n"
        "print('stat::number_of_executed_units: 7')\nsys.exit(77)\n"
    )
    real = subprocess.run

    def run(command: list[str], **options: object) -> object:
        return real([sys.executable, str(engine), *command[3:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["fuzz", "--seconds", "1", "name_lock"])
    assert driver.main() == 1
    out = capsys.readouterr().out
    assert "7 executions" in out and "1 finding(s)" in out
    kept = ".fuzz/findings/name_lock-crash-1"
    assert f"python -m tests.fuzz --replay {kept} name_lock" in out
    monkeypatch.setattr(sys, "argv", ["fuzz", "--replay", kept, "name_lock"])
    assert driver.main() == 0
