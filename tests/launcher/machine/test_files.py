"""Files of our own take their place whole, whoever else writes the same one."""

import os
from pathlib import Path

import pytest

from launcher.machine import files
from launcher.machine.files import replacing, write_atomically


def test_two_containers_with_one_process_id_do_not_write_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "run.json"
    with replacing(path) as ours:
        ours.write(b"ours, the longer")
        with replacing(path) as theirs:
            theirs.write(b"theirs")
        assert path.read_bytes() == b"theirs"
    assert path.read_bytes() == b"ours, the longer"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_is_on_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[Path, list[str]]] = []

    def note(folder: Path) -> None:
        synced.append((folder, [path.name for path in folder.iterdir()]))

    monkeypatch.setattr(files, "sync", note)
    write_atomically(tmp_path / "run.json", b"x")
    assert synced == [(tmp_path, ["run.json"])]


def test_what_went_wrong_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, b"old")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
