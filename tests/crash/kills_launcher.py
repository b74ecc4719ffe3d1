"""The command line, with pods that start from other sources: `kills_launcher.py SOURCES COMMAND...`."""

import sys
from pathlib import Path

from launcher.cli.root import main
from launcher.pods import process

if __name__ == "__main__":
    process.SOURCES = Path(sys.argv[1]).resolve()
    main(sys.argv[2:])
