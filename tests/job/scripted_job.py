"""The job's main process with scripted children: `python -m tests.job.scripted_job SCRIPT.json`."""

import json
import os
import sys
from functools import partial
from pathlib import Path

from job.__main__ import main
from job.contract.recipe import TrainerName
from job.root import work
from tests.job.rig import Script, ScriptedDrawer, ScriptedTrainer

if __name__ == "__main__":
    script = Script(**json.loads(Path(sys.argv[1]).read_text()))
    trainers = {TrainerName.DIFFUSERS: ScriptedTrainer(script)}
    raise SystemExit(main(os.environ, partial(work, trainers=trainers, drawer=ScriptedDrawer())))
