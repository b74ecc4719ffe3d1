"""Entry point of the drawing child: `python -m job.evaluate.draw TASK_FILE`.

Reports on stdout, chatter on stderr. Exit code 0 when every image is there, 1 after a reported trouble.
"""

import logging
import sys
from pathlib import Path

from job.evaluate.drawing import decode_task, encode_drawn
from job.trainers.base import Trouble
from job.trainers.embedded.errors import TrainingError, exhaustion_explained
from job.trainers.embedded.wire import encode, leave, line_writer, private_stdout


def main(arguments: list[str]) -> int:
    """Draw the task in the file named by the only argument."""
    write = line_writer(private_stdout())
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    task = decode_task(Path(arguments[0]).read_text(encoding="utf-8"))
    try:
        with exhaustion_explained():
            # Imported here, where running out of memory is explained.
            from job.evaluate.draw.artist import draw

            draw(task, lambda report: write(encode_drawn(report)))
    except TrainingError as error:
        logging.getLogger(__name__).exception("drawing cannot go on")
        write(encode(Trouble(error.reason, str(error))))
        return 1
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
