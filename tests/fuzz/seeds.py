"""What fuzzing starts from: sound and nearly sound inputs, made by the tests' own builders."""

import io
import re
import struct
import tarfile
import zipfile
from collections.abc import Iterator

from launcher.settings.template import template
from tests.bad_input.models import base_files, lora
from tests.bad_input.raw_zip import SYMLINK, Member, raw_zip
from tests.contract.test_golden import EVENTS, MESSAGES
from tests.fuzz.targets import FILES_MARK, PART_MARK
from tests.job.scripted_child import safetensors
from tests.launcher.dataset.packages import image, pairs
from tests.launcher.world import FakeWorld


def seeds(target: str) -> tuple[bytes, ...]:
    """Return the first inputs of a target, by its name in `TARGETS`."""
    return tuple(_MAKERS[target]())


def _zip(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _packages() -> Iterator[bytes]:
    yield _zip(pairs(1))
    yield _zip(pairs(2, ""), zipfile.ZIP_DEFLATED)
    yield _zip({"a.jpg": image(kind="JPEG"), "a.txt": b"a face", "note.md": b"x"}, zipfile.ZIP_DEFLATED)
    yield raw_zip([Member(b"../a.png", b"x"), Member(b"b.png", b"/etc/passwd", mode=SYMLINK)])
    yield raw_zip([Member(b"a\xff.png", b"x", deflated=True), Member(b"a.txt", b"x", declared=9)])


def _files() -> Iterator[bytes]:
    png, bitmap = image(side=2), image(side=2, kind="BMP")
    for files in (
        {"set/a.png": png, "set/a.txt": b"a face, red", "B.bmp": bitmap, "other/b.TXT": b"a face, blue"},
        {"a b'\".png": png, "a b'\".txt": b"x", "__MACOSX/._a.png": b"x", ".DS_Store": b"x"},
        {
            "\N{DRAGON FACE}.png": png,
            "\N{DRAGON FACE}.txt": b"caf\xc3\xa9",
        },
        {"a.png": png, "A.png": png, "a.txt": b"\n", "..\\x.txt": b"x"},
    ):
        yield FILES_MARK.join(name.encode() + b"\n" + data for name, data in files.items())


def _samples() -> Iterator[bytes]:
    yield _zip({"000.png": image(), "001.png": image(colour=9)})
    yield _zip({"000.png": image(), "../x.png": b"x"}, zipfile.ZIP_DEFLATED)


def _states() -> Iterator[bytes]:
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
            for name, data in {"state.json": b"{}", "deep/optimizer.pt": b"x" * 600, "n" * 120: b"x"}.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        yield buffer.getvalue()


def _tensors() -> Iterator[bytes]:
    yield safetensors(4, 0.5)
    yield safetensors(1, float("nan"))
    yield safetensors(1, 1.0)[:-3]
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"__metadata__":{"format":"pt"}}'
    yield struct.pack("<Q", len(header)) + header + b"\x80\x3f\x80\x7f"


def _weights() -> Iterator[bytes]:
    yield lora()
    yield _zip({f"some/where/{name}": data for name, data in base_files().items()})
    yield _zip(base_files() | {"text_encoder_2/config.json": b"{}"}, zipfile.ZIP_DEFLATED)


def _manifests() -> Iterator[bytes]:
    yield MESSAGES["manifest"].encode()


def _messages() -> Iterator[bytes]:
    for number, name in enumerate(("receipt", "claim", "heartbeat", "scores")):
        yield bytes([number]) + MESSAGES[name].encode()


def _log() -> bytes:
    return b"\n".join(event.encode() for event in EVENTS)


def _events() -> Iterator[bytes]:
    yield _log()
    yield from (event.encode() for event in EVENTS)


def _pods() -> Iterator[bytes]:
    small = [MESSAGES[name].encode() for name in ("receipt", "heartbeat", "claim")]
    yield PART_MARK.join([_log(), *small])
    yield PART_MARK.join([b"\n".join(event.encode() for event in EVENTS[:-1]), *small, _log(), small[0]])


def _records() -> Iterator[bytes]:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        world = FakeWorld(Path(folder), epochs=2, prompts=2)
        yield world.record().encode()
        yield world.run().encode()


def _settings() -> Iterator[bytes]:
    yield re.sub(r"(?m)^# ?(?=\w+ = )", "", template()).encode()
    yield b'[recipe]\nmax_epochs = 3\nresolution = "64,64"\n\0RECIPE__LORA_DIM=8\n\0budget.cap_dollars=1\n'
    yield b'[storage]\nbucket = "abc"\nsecret_key = "x"\naccess_key = "y"\n\0RUN__PRESET=sd15\n\0run.cap=1'
    yield b"[clocks]\npoll = 0.5\nlease = 1e3\n\0CLOCKS__BOOT=inf\n\0recipe.learning_rate=1e-3\n"


def _pod_environments() -> Iterator[bytes]:
    yield PART_MARK.join([b"https://bucket.example/x?y", b"2026-01-02T03:04:05+00:00", b"pod-1"])


_MAKERS = {
    "package_bytes": _packages,
    "package_files": _files,
    "samples": _samples,
    "resume_state": _states,
    "tensors": _tensors,
    "weights": _weights,
    "manifest": _manifests,
    "messages": _messages,
    "events": _events,
    "pod": _pods,
    "record": _records,
    "name_lock": lambda: iter((b'{"run_id": "run-1"}',)),
    "settings": _settings,
    "pod_environment": _pod_environments,
}
