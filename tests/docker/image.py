"""An image that runs the real job, made from this very Python: no registry, no package download.

It holds the interpreter, its standard library, the packages that the job and the embedded trainer need, the
shared libraries of all of them, and `job/`. Paths of the interpreter are the same as outside.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from io import BytesIO
from pathlib import Path

import docker

ROOT = Path(__file__).parents[2]
IMAGE = "retrain-test-job:latest"
NEEDED = (
    "accelerate",
    "diffusers",
    "httpx",
    "numpy",
    "peft",
    "pillow",
    "pydantic",
    "tenacity",
    "torch",
    "transformers",
)
"""Packages of the job and the embedded trainer; what these need comes with them."""
LEFT_OUT = re.compile(r"(^|/)(torch/include|torch/test|tests|idlelib|ensurepip|site-packages)/|\.a$|^\.\.")
"""Of packages and the standard library: what nothing is run from."""
IMPORT_SECONDS = 600
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


def build_image(address: str) -> str:
    """Import the image into the engine at `address` and return its name."""
    client = docker.APIClient(base_url=address, version="auto", timeout=IMPORT_SECONDS)
    reading, writing = os.pipe()
    writer = threading.Thread(target=_write, args=(writing,), name="image")
    writer.start()
    try:
        with os.fdopen(reading, "rb") as stream:
            client.import_image_from_stream(
                stream,
                repository=IMAGE.partition(":")[0],
                tag=IMAGE.partition(":")[2],
                changes=[f'ENTRYPOINT ["{interpreter()}", "-m", "job"]', "WORKDIR /tmp"],
            )
    finally:
        writer.join()
        client.close()
    return IMAGE


def _write(descriptor: int) -> None:
    with os.fdopen(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for folder in ("tmp", "etc", "proc", "sys", "dev", "root"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        users = b"root:x:0:0:root:/root:/bin/sh\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(users)
        archive.addfile(entry, BytesIO(users))
        files = dict(_files())
        for inside, path in {**_libraries(files), **files}.items():
            archive.add(path, arcname=inside.lstrip("/"), recursive=False)


def _files() -> Iterator[tuple[str, Path]]:
    """Yield where each file belongs in the image, and the file."""
    yield interpreter(), Path(interpreter())
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    for path in standard.rglob("*"):
        inside = path.relative_to(standard).as_posix()
        if path.is_file() and not LEFT_OUT.search(inside) and not inside.startswith("test/"):
            yield str(path), path
    # Where the interpreter looks by itself: the job's children get no PYTHONPATH.
    packages = subprocess.run(
        [interpreter(), "-I", "-c", "import site; print(site.getsitepackages()[0])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    for found in _with_needs(NEEDED):
        for file in found.files or ():
            path = Path(str(found.locate_file(file)))
            if not LEFT_OUT.search(file.as_posix()) and path.is_file():
                yield f"{packages}/{file.as_posix()}", path
    for path in (ROOT / "job").rglob("*.py"):
        yield f"{packages}/{path.relative_to(ROOT).as_posix()}", path


def interpreter() -> str:
    """Return the interpreter below any virtual environment."""
    return str(Path(sys.executable).resolve())


def _with_needs(names: Sequence[str]) -> list[Distribution]:
    """Return the installed packages of these names and all that they need, leaving out extras."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # needed on other systems only
        for line in found[name].requires or ():
            needed = re.match(r"[A-Za-z0-9._-]+", line)
            if needed and "extra ==" not in line:
                waiting.append(needed[0])
    return list(found.values())


def _libraries(files: dict[str, Path]) -> dict[str, Path]:
    """Return the shared libraries that these files are linked to, under the paths they are looked for at."""
    linked = [path for path in files.values() if path.suffix == ".so" or ".so." in path.name]
    said = subprocess.run(
        ["ldd", interpreter(), *map(str, linked)], capture_output=True, text=True, check=False
    ).stdout
    within = {str(path.resolve()) for path in files.values()}
    return {
        name: Path(name).resolve()
        for name in set(_LIBRARY.findall(said))
        if str(Path(name).resolve()) not in within
    }
