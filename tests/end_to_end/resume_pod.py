"""Inside a pod of the resume tests: the real trainer, whose every step is written down and can be held.

Imported by the `sitecustomize` that `test_resume` writes, in every interpreter of the pod; it does something
in the trainer's alone. Beside that `sitecustomize` lie

    steps.jsonl   one line for each step made: process, step, images, captions, rates, the loss's very bits
    hold          a step's number, written by the test: that step is not begun before the file is gone
    held          a step's number, written here: the trainer waits before it
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

TRAINER = "job.trainers.embedded"
TRAINING = f"{TRAINER}.training"


class _Watching(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the training module as it is, then puts the watch around its steps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: importlib.machinery.ModuleSpec | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != TRAINING:
            return None
        self._found = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert self._found is not None
        return importlib.machinery.ModuleSpec(fullname, self, origin=self._found.origin)

    def exec_module(self, module: ModuleType) -> None:
        assert self._found is not None and self._found.loader is not None
        self._found.loader.exec_module(module)
        _watch(module, self._folder)


def _watch(training: ModuleType, folder: Path) -> None:
    plain = training._Training._step

    def step(self: Any, number: int, batch: tuple[int, ...]) -> float:
        hold = folder / "hold"
        while _content(hold) == str(number):
            (folder / "held").write_text(str(number))
            time.sleep(0.01)
        loss: float = plain(self, number, batch)
        captions = [self._dataset.captions[image] for image in batch]
        line = {
            "process": os.getpid(),
            "step": number,
            "images": [self._dataset.images[image].name for image in batch],
            "captions": training.step_captions(captions, self._recipe, number),
            "rates": [group["lr"].hex() for group in self._optimizer.param_groups],
            "loss": loss.hex(),
        }
        with (folder / "steps.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return loss

    training._Training._step = step


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def watch(folder: Path) -> None:
    """Watch the trainer, if this interpreter is to become one."""
    if TRAINER in sys.orig_argv:
        sys.meta_path.insert(0, _Watching(folder))
