"""Entry point of the training child: `python -m job.trainers.embedded TASK_FILE`.

Reports on stdout, chatter on stderr. Exit code 0 when the last epoch is done, 1 after a reported trouble.
"""

import logging
import sys
from pathlib import Path

from job.trainers.base import Trouble
from job.trainers.embedded.dataset import read_dataset
from job.trainers.embedded.errors import TrainingError, exhaustion_explained
from job.trainers.embedded.task import read_task
from job.trainers.embedded.wire import encode, leave, line_writer, private_stdout


def main(arguments: list[str]) -> int:
    """Train the task in the file named by the only argument."""
    write = line_writer(private_stdout())
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    task = read_task(Path(arguments[0]))
    try:
        with exhaustion_explained():
            dataset = read_dataset(task.data_dir, task.recipe)
            # Imported late: it takes seconds, which a bad dataset need not wait for.
            from job.trainers.embedded.training import train

            train(task, dataset, lambda report: write(encode(report)))
    except TrainingError as error:
        logging.getLogger(__name__).exception("training cannot go on")
        write(encode(Trouble(error.reason, str(error))))
        return 1
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
