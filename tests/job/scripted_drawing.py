"""Draws without a model: `scripted_drawing.py FOLDER MODE NAME...`, each image half red and half blue."""

import sys
import time
from pathlib import Path

from PIL import Image


def main(folder: str, mode: str, *names: str) -> int:
    if mode == "fail":
        sys.stderr.write("no such model\n")
        return 4
    if mode == "hang":
        time.sleep(600)
    for name in names:
        image = Image.new("RGB", (8, 8), "red")
        image.paste("blue", (4, 0, 8, 8))
        image.save(Path(folder) / f"{name}.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
