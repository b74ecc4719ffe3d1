"""A real Docker engine for tests: the one that answers, else one started from an installed dockerd.

An engine of our own gets a folder of its own and neither a bridge nor firewall rules, so that nothing of the
machine changes: its containers share the machine's network or have none.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
import requests
from docker.errors import DockerException

START_SECONDS = 60.0
STOP_SECONDS = 30.0


@contextmanager
def docker_engine() -> Iterator[str]:
    """Yield the address of an engine, in the form of DOCKER_HOST; skip the test where there is none."""
    given = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    said = _says(given)
    if said is not None:
        if "podman" in said.lower():
            pytest.skip("what answers as Docker engine is Podman, which is not one")
        yield given
        return
    dockerd = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if dockerd is None or os.geteuid() != 0:
        pytest.skip("no Docker engine: none answers, and to start one takes root and an installed dockerd")
    # Not pytest's folder: the path of a socket may have but 108 bytes.
    folder = Path(tempfile.mkdtemp(prefix="retrain-docker-"))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [dockerd, *_arguments(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield _once_it_answers(f"unix://{folder}/docker.sock", process, folder / "log")
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for mounted in folder.glob("exec/netns/*"):
            subprocess.run(["umount", str(mounted)], stderr=subprocess.DEVNULL, check=False)
        # Images of a gigabyte take half a minute to delete; nobody waits for that.
        subprocess.Popen(["rm", "-rf", "--one-file-system", str(folder)], start_new_session=True)


def _arguments(folder: Path) -> list[str]:
    return [
        f"--host=unix://{folder}/docker.sock",
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
    ]


def _once_it_answers(address: str, process: "subprocess.Popen[bytes]", log: Path) -> str:
    end = time.monotonic() + START_SECONDS
    while _says(address) is None:
        if process.poll() is not None or time.monotonic() > end:
            last = log.read_text(errors="replace").splitlines()[-1:]
            pytest.skip(f"no Docker engine: dockerd does not come up here: {last}")
        time.sleep(0.1)
    client = docker.DockerClient(base_url=address)
    driver = client.info()["Driver"]
    client.close()
    if driver == "vfs":
        pytest.skip("no Docker engine: on this file system each container would be a copy of its image")
    return address


def _says(address: str) -> str | None:
    """Return what an engine says of itself, None where none answers."""
    try:
        client = docker.DockerClient(base_url=address, timeout=10)
        try:
            return str(client.version())
        finally:
            client.close()
    except (DockerException, requests.exceptions.RequestException):
        return None
