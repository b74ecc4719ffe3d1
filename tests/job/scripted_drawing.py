"""Draws without a model: `scripted_drawing.py TASK_FILE MODE`, each image half red and half blue."""

import json
import sys
import time
from pathlib import Path

from PIL import Image


def main(task_file: str, mode: str) -> int:
    task = json.loads(Path(task_file).read_text())
    for canvas in task["canvases"]:
        if mode in ("fail", f"fail-{canvas['epoch']}"):
            sys.stderr.write("no such model\n")
            return 4
        if mode in ("hang", f"hang-{canvas['epoch']}"):
            time.sleep(600)
        for prompt in task["plan"]["prompts"]:
            image = Image.new("RGB", (8, 8), "red")
            image.paste("blue", (4, 0, 8, 8))
            image.save(Path(canvas["out"]) / f"{prompt['name']}.png")
        count = len(task["plan"]["prompts"])
        sys.stdout.write(
            json.dumps({"kind": "epoch_done", "epoch": canvas["epoch"], "images": count, "seconds": 1})
        )
        sys.stdout.write("\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
