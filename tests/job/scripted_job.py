"""The job's composition root with scripted children: `python -m tests.job.scripted_job SCRIPT.json`."""

import json
import os
import sys
from pathlib import Path

from job.__main__ import main
from job.contract.recipe import TrainerName
from tests.job.rig import Script, ScriptedDrawer, ScriptedTrainer

if __name__ == "__main__":
    script = Script(**json.loads(Path(sys.argv[1]).read_text()))
    raise SystemExit(main(os.environ, {TrainerName.DIFFUSERS: ScriptedTrainer(script)}, ScriptedDrawer()))
