"""Packing: deterministic, unchanged, atomic."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from job.contract.reasons import Reason
from job.unpack import Zip, unpack_dataset
from launcher.dataset.checks import check, require_sound
from launcher.dataset.packing import pack
from launcher.dataset.reading import STEM_BYTES_MAX, open_dataset
from launcher.errors import DatasetError, RetrainError
from tests.launcher.dataset.packages import image, pairs, unpacked, zipped


def test_the_same_pairs_become_the_same_bytes(tmp_path: Path) -> None:
    files = pairs(4, "deep/down/") | {"README.md": b"stays behind"}
    backwards = dict(reversed(files.items()))
    packed = []
    for number, path in enumerate(
        (
            zipped(tmp_path / "a.zip", files),
            zipped(tmp_path / "b.zip", backwards),
            unpacked(tmp_path / "c", files),
        )
    ):
        with open_dataset(path) as dataset:
            packed.append(pack(dataset, tmp_path / f"out-{number}.zip"))
    assert len({one.sha256 for one in packed}) == 1
    data = packed[0].path.read_bytes()
    assert (packed[0].bytes, packed[0].images) == (len(data), 4)
    assert packed[0].sha256 == hashlib.sha256(data).hexdigest()
    # Packing what was packed changes nothing more.
    with open_dataset(packed[0].path) as dataset:
        assert pack(dataset, tmp_path / "again.zip").sha256 == packed[0].sha256


def test_bytes_go_in_unchanged_under_flat_names(tmp_path: Path) -> None:
    files = {
        "x/-a b: c.JPEG": image(kind="JPEG"),
        "x/-A B: C.txt": "\ufeffcaption\r\n".encode(),
        "y/é.png": image(),
        "z/e\u0301.txt": b"decomposed",
    }
    with open_dataset(zipped(tmp_path / "set.zip", files)) as dataset:
        assert [finding.code for finding in check(dataset)] == ["caption-bom"]
        path = pack(dataset, tmp_path / "out.zip").path
    with zipfile.ZipFile(path) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "_a b_ c.jpeg": files["x/-a b: c.JPEG"],
            "_a b_ c.txt": files["x/-A B: C.txt"],
            "é.png": files["y/é.png"],
            "é.txt": files["z/e\u0301.txt"],
        }


def test_the_pod_takes_every_name_that_is_packed(tmp_path: Path) -> None:
    stems = [
        "plain",
        "n" * STEM_BYTES_MAX,
        "é" * (STEM_BYTES_MAX // 2),
        "a:b",
        "-dash",
        " . ",
        "a.b.c",
        "C:\u00e4",
    ]
    files = {f"in/{stem}.jpeg": image(kind="JPEG", colour=n) for n, stem in enumerate(stems)}
    files |= {f"in/{stem}.txt": stem.encode() for stem in stems}
    with open_dataset(unpacked(tmp_path / "set", files)) as dataset:
        require_sound(dataset, check(dataset))
        packed = pack(dataset, tmp_path / "out.zip")
    archive = Zip(packed.path, reason=Reason.BAD_DATASET, noun="the dataset")
    count = unpack_dataset(archive, tmp_path / "pod", repeat_count=10, caption_extension=".txt")
    archive.close()
    assert count == packed.images == len(stems)
    (subset,) = (tmp_path / "pod").iterdir()
    assert sorted(path.read_bytes() for path in subset.iterdir()) == sorted(files.values())


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "set", pairs(2, ""))
    out = tmp_path / "out.zip"
    out.write_bytes(b"what was there")
    with open_dataset(folder) as dataset:
        (folder / "lad_001.png").write_bytes(b"x")
        with pytest.raises(DatasetError, match=r"lad_001\.png changed"):
            pack(dataset, out)
        with pytest.raises(RetrainError, match="cannot be written: No such file"):
            pack(dataset, tmp_path / "absent" / "out.zip")
    assert out.read_bytes() == b"what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zip", "set"]
