"""The environment of the project's own child processes. Knows nothing of what they do."""

import os
from collections.abc import Mapping
from pathlib import Path

import job

INHERITED = (
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HOME",
    "LD_LIBRARY_PATH",
    "MKL_NUM_THREADS",
    "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "PATH",
    "PYTHONHASHSEED",
    "TMPDIR",
)
"""What a child may need of its parent's environment; nothing here can hold a secret."""


def child_environment(parent: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a child needs to find `job`, the GPU and its threads, and to stay off the network."""
    parent = os.environ if parent is None else parent
    found = {name: parent[name] for name in INHERITED if parent.get(name)}
    # Threads that spin while they wait make steps up to thirty times slower where others want the cores too.
    found.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    paths = [str(Path(job.__file__).parent.parent), *filter(None, [parent.get("PYTHONPATH")])]
    return found | {
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
