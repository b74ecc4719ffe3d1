"""A trainer without training: writes real safetensors files and reports, and misbehaves as it is told.

Run by path with one argument, a JSON object; see `Script` in rig.py. Standard library only.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def say(**report: object) -> None:
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


def safetensors(rank: int, value: float, *, zero_up: bool = False) -> bytes:
    floats = {"lora_te_a.lora_up.weight": (4, rank), "lora_te_a.lora_down.weight": (rank, 4)}
    header, data = {}, b""
    for name, shape in floats.items():
        fill = 0.0 if zero_up and "lora_up" in name else value
        raw = struct.pack("<e", fill) * (shape[0] * shape[1])
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.02)


def save(script: dict[str, Any], output: Path, epoch: int, step: int) -> None:
    last = epoch == script["epochs"]
    name = script["name"] if last and script["unnumbered"] else f"{script['name']}-{epoch:06d}"
    path = output / f"{name}.safetensors"
    value = float("nan") if script["nan_tensor"] == epoch else 1 / (epoch + 1)
    data = safetensors(script["wrong_rank"] or script["rank"], value, zero_up=script["untrained"])
    # sd-scripts says so before it writes.
    if not script["silent"]:
        say(kind="saved", path=str(path), epoch=epoch, step=step)
    if script["half_written"] == epoch:
        path.write_bytes(data[: len(data) // 2])
        wait_for(script["hold"])
    path.write_bytes(data)


def main() -> int:
    script = json.loads(sys.argv[1])
    output = Path(script["output_dir"])
    if script["deaf"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (output.parent / "environment.json").write_text(json.dumps(dict(os.environ)))
    if script["worker"]:
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(script["worker"]).write_text(f"{os.getpid()} {worker.pid}")
    first = script["resume"]["step"] if script["resume"] else 0
    done = script["resume"]["epoch"] if script["resume"] else 0
    if script["resume"]:
        said = (Path(script["resume"]["folder"]) / "state.json").read_text()
        assert json.loads(said) == {"epoch": done, "step": first}, said
    total = script["epochs"] * script["steps"]
    say(
        kind="started",
        total_steps=total,
        steps_per_epoch=script["steps"],
        total_epochs=script["epochs"],
        first_step=first,
    )
    for text in script["chatter"]:
        sys.stderr.write(text)
        sys.stderr.flush()
    for step in range(first + 1, total + 1):
        epoch = (step - 1) // script["steps"] + 1
        if script["crash_at"] == step:
            sys.stderr.write("Traceback: it broke\n")
            return 3
        if script["kill_at"] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        if script["pause_at"] == step:
            wait_for(script["hold"])
        if script["hang_at"] == step:
            wait_for("/nonexistent")
        loss = "nan" if script["nan_at"] == step else 1 / step
        say(kind="step", step=step, epoch=epoch, loss=loss)
        if step % script["steps"] == 0 and epoch not in script["skip"]:
            if epoch % script["save_every"] == 0 or epoch == script["epochs"]:
                save(script, output, epoch, step)
            if script["states"]:
                folder = output / f"state-{epoch}"
                folder.mkdir()
                (folder / "state.json").write_text(json.dumps({"epoch": epoch, "step": step}))
                say(kind="state", path=str(folder), epoch=epoch, step=step)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
