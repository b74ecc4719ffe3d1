"""Dependencies point inwards: read from the sources, so that a shortcut fails here."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TORCH_LIKE = {"torch", "diffusers", "transformers", "peft", "accelerate", "safetensors"}
CHILD_PROCESSES = {"job/trainers/embedded", "job/evaluate/draw"}
"""What runs as a child process and may import the training libraries."""
SDKS = {
    "boto3": "launcher/storage",
    "botocore": "launcher/storage",
    "s3transfer": "launcher/storage",
    "docker": "launcher/pods",
    "runpod": "launcher/pods",
}
CORE = (
    *("model", "ports", "reconcile", "judgement", "selection", "outcome", "errors", "timekeeping"),
    *("money/budget", "money/billing", "money/pace", "money/speeds", "money/forecast", "money/choice"),
)


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_job_knows_nothing_of_the_launcher() -> None:
    for path in sources("job"):
        assert not {name for name in imports(path) if name.split(".")[0] == "launcher"}, path


def test_launcher_knows_the_contract_alone() -> None:
    for path in sources("launcher"):
        foreign = {n for n in imports(path) if n.split(".")[0] == "job"} - {"job"}
        assert not {n for n in foreign if not n.startswith("job.contract")}, path


def test_the_contract_stands_alone() -> None:
    for path in sources("job/contract"):
        for name in imports(path):
            assert name.split(".")[0] != "job" or name.startswith("job.contract"), (path, name)


def test_training_libraries_stay_in_child_processes() -> None:
    for path in [*sources("job"), *sources("launcher")]:
        heavy = {name for name in imports(path) if name.split(".")[0] in TORCH_LIKE}
        assert not heavy or relative(path).startswith(tuple(CHILD_PROCESSES)), (path, heavy)


def test_sdks_stay_in_their_adapters() -> None:
    for path in sources("launcher"):
        for name in imports(path):
            home = SDKS.get(name.split(".")[0])
            assert home is None or relative(path).startswith(home), (path, name)


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_no_adapter(module: str) -> None:
    forbidden = ("launcher.pods", "launcher.storage", "launcher.cli", "launcher.report", "launcher.settings")
    assert not {n for n in imports(ROOT / f"launcher/{module}.py") if n.startswith(forbidden)}


def test_only_the_command_line_knows_adapters() -> None:
    adapters = ("launcher.pods", "launcher.storage")
    for path in sources("launcher"):
        if relative(path).startswith(("launcher/cli", "launcher/pods", "launcher/storage")):
            continue
        assert not {n for n in imports(path) if n.startswith(adapters)}, path
