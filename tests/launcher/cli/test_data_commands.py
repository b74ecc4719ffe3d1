"""`retrain check` and `retrain pack`."""

import hashlib
import json
from pathlib import Path

import pytest

from launcher.cli.root import execute
from launcher.errors import Exit
from tests.launcher.dataset.packages import image, pairs, zipped


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return zipped(tmp_path / "set.zip", pairs())


@pytest.fixture
def doubtful(tmp_path: Path) -> Path:
    return zipped(tmp_path / "set.zip", pairs() | {"x.png": image(colour=77), "x.txt": b"two\nlines"})


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return zipped(tmp_path / "set.zip", pairs() | {"x.png": image(), "y.png": b"junk", "y.txt": b"a caption"})


def test_check_passes_a_sound_set(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["check", str(sound), "--strict"]) == Exit.DONE
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{sound}: 3 pairs of image and caption; 0 errors, 0 warnings, 0 notes\n"


def test_check_lists_every_error(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["check", str(broken)]) == Exit.DATASET
    assert capsys.readouterr().out.splitlines() == [
        "error    x.png has no caption; write one, or take the image out [caption-missing]",
        "error    y.png is no image or was cut short; export it again [image-unreadable]",
    ]


def test_check_strictly_takes_warnings_for_errors(doubtful: Path) -> None:
    assert execute(["check", str(doubtful)]) == Exit.DONE
    assert execute(["check", str(doubtful), "--strict"]) == Exit.DATASET


def test_check_speaks_json(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["check", str(broken), "--json"]) == Exit.DATASET
    told = json.loads(capsys.readouterr().out)
    assert (told["pairs"], told["errors"], told["warnings"], told["refused"]) == (4, 2, 0, True)
    assert told["findings"][0] == {
        "code": "caption-missing",
        "severity": "error",
        "file": "x.png",
        "seen": "has no caption",
        "advice": "write one, or take the image out",
    }


def test_pack_prints_what_it_wrote(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.zip"
    assert execute(["pack", str(sound), "-o", str(out)]) == Exit.DONE
    assert capsys.readouterr().out == f"{hashlib.sha256(out.read_bytes()).hexdigest()}  {out}\n"


@pytest.mark.parametrize("command", ["check", "pack"])
def test_what_cannot_be_read_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.zip").write_bytes(b"hello")
    for name, said in (("text.zip", "is not a zip file"), ("absent", "cannot be read")):
        arguments = [command, str(tmp_path / name)] + ["-o", str(tmp_path / "out.zip")] * (command == "pack")
        assert execute(arguments) == Exit.DATASET
        out, err = capsys.readouterr()
        assert out == ""
        assert said in err
        assert "  next: " in err
    assert [path.name for path in tmp_path.iterdir()] == ["text.zip"]


def test_pack_refuses_what_cannot_be_trained(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["pack", str(broken), "-o", str(tmp_path / "out.zip")]) == Exit.DATASET
    assert "x.png has no caption, and 1 more" in capsys.readouterr().err
    assert not (tmp_path / "out.zip").exists()


def test_pack_says_when_it_cannot_write(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["pack", str(sound), "-o", str(tmp_path / "absent" / "out.zip")]) == Exit.INFRASTRUCTURE
    assert "cannot be written" in capsys.readouterr().err
