"""The command line, with pods that start from other sources: `kills_launcher.py SOURCES COMMAND...`.

RETRAIN_TEST_HOST in the environment stands for the name of another machine.
"""

import os
import socket
import sys
from functools import partial
from pathlib import Path

from launcher.cli.root import main
from launcher.pods import process

if __name__ == "__main__":
    process.SOURCES = Path(sys.argv[1]).resolve()
    if host := os.environ.get("RETRAIN_TEST_HOST"):
        socket.gethostname = partial(str, host)
    main(sys.argv[2:])
