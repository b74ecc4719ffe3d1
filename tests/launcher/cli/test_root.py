"""The root: quick to start, every failure a sentence and a code."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from launcher.cli import root
from launcher.errors import BudgetError, Exit, RetrainError, UsageError

HEAVY = {"pydantic", "boto3", "botocore", "rich", "httpx", "numpy", "PIL", "psutil", "torch"}
SIGNED = "https://bucket.example/runs/1/a?X-Amz-Signature=abcdef"


def python(code: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["check", "--help"], ["pack", "--help"], ["typo"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, json\nfrom launcher.cli.root import execute\ncode = execute(sys.argv[1:])\n"
        "print(json.dumps([code, sorted({name.split('.')[0] for name in sys.modules})]), file=sys.stderr)"
    )
    ran = python(code, *arguments)
    exit_code, modules = json.loads(ran.stderr.splitlines()[-1])
    assert exit_code == (Exit.USAGE if arguments == ["typo"] else Exit.DONE)
    assert not HEAVY & set(modules)


def test_help_lists_every_command_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert root.execute(["--help"]) == Exit.DONE
    shown = capsys.readouterr().out
    for name, line in root.COMMANDS.items():
        assert name in shown
        assert line.split(",")[0].split(".")[0] in shown


@pytest.mark.parametrize("name", root.COMMANDS)
def test_every_command_is_where_the_root_looks_for_it(name: str) -> None:
    command = importlib.import_module(f"launcher.cli.{name}").command
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chekc"], "there is no command 'chekc'; did you mean check?"),
        (["zzz"], "there is no command 'zzz'"),
        (["--nonsense"], "--nonsense"),
        (["check"], "Missing argument 'DATA'"),
        (["pack", "x"], "Missing option '-o' / '--output'"),
    ],
)
def test_a_wrong_command_line_is_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert root.execute(arguments) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "  next: retrain" in err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert root.execute([]) == Exit.USAGE
    assert "Usage: retrain" in "".join(capsys.readouterr())


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Make `retrain probe` do what the test says, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(root.COMMANDS, "probe", "Does what the test says.")

    def install(action: Any) -> None:
        command = click.command("probe")(action)
        monkeypatch.setitem(sys.modules, "launcher.cli.probe", SimpleNamespace(command=command))

    return install


def raising(error: BaseException) -> Any:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("no", next_step="yes"), 2, "retrain: no\n  next: yes\n"),
        (BudgetError("too much"), 4, "retrain: too much\n"),
        (RetrainError("broken"), 6, "retrain: broken\n"),
        (click.UsageError("odd"), 2, "retrain: odd\n  next: retrain probe --help\n"),
        (click.exceptions.Exit(7), 7, ""),
        (KeyboardInterrupt(), 130, "retrain: interrupted\n"),
        (SystemExit(5), 5, ""),
    ],
)
def test_errors_become_a_sentence_and_a_code(
    probe: Any, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    probe(raising(error))
    with pytest.raises(SystemExit) as caught:
        root.main(["probe"])
    assert caught.value.code == code
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(("value", "code"), [(None, 0), (Exit.LEAKED, 8), (3, 3)])
def test_what_a_command_returns_is_the_exit_code(probe: Any, value: int | None, code: int) -> None:
    probe(lambda: value)
    assert root.execute(["probe"]) == code


def test_a_crash_leaves_a_file_and_no_secret(
    probe: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    probe(raising(ValueError(f"cannot reach {SIGNED}")))
    assert root.execute(["probe"]) == Exit.INFRASTRUCTURE
    err = capsys.readouterr().err
    (path,) = (tmp_path / ".retrain").iterdir()
    assert err.startswith("retrain: unexpected ValueError, a bug in retrain\n")
    assert path.name in err
    assert "Traceback" not in err
    trace = path.read_text()
    assert "ValueError: cannot reach https://bucket.example/runs/1/a?…" in trace
    assert "abcdef" not in trace + err
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_crash_is_shown_when_asked_or_when_it_cannot_be_kept(
    probe: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    probe(raising(ValueError(SIGNED)))
    assert root.execute(["--debug", "probe"]) == Exit.INFRASTRUCTURE
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "abcdef" not in err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".retrain").write_text("a file")
    assert root.execute(["probe"]) == Exit.INFRASTRUCTURE
    assert "retrain --debug" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    """`retrain … | head -1`: nobody reads on, and nobody wants to hear of it."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "from launcher.cli.root import main; main(['--help'])"
    process = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, b"")
