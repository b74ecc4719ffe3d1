"""Has the images of each epoch drawn by one child process, measures them, and has both kept. Knows no torch.

An evaluation that fails is a warning: the checkpoints are what the run is for.
"""

import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from job import supervise
from job.contract import keys
from job.contract.events import Evaluated, Sampled, Warned
from job.contract.manifest import evaluated_epochs
from job.contract.records import ArtefactKind, Receipt, Scores
from job.desk import Desk, Drawer
from job.evaluate.drawing import Canvas, DrawTask, EpochDrawn, parse
from job.evaluate.ruler import Ruler, RulerError, load_ruler
from job.evaluate.scores import read_images, score
from job.trainers.base import Remark, Trouble
from job.uploads import Artefact

FRUITLESS_MAX = 2
"""Children in a row that draw no epoch at all: what fails is then not one checkpoint but drawing itself."""
LAST_LINES = 5
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


class DrawingError(Exception):
    """The drawing child did not do all its work."""


class Measuring:
    """The evaluation after training."""

    def __init__(
        self,
        desk: Desk,
        drawer: Drawer,
        *,
        base_model: Path,
        ruler: Path | None,
        receipts: Mapping[str, Receipt],
        steps: Mapping[int, int],
    ) -> None:
        assert desk.manifest.evaluation is not None
        self._desk = desk
        self._drawer = drawer
        self._plan = desk.manifest.evaluation
        self._base_model = base_model
        self._receipts = receipts
        self._steps = steps
        self._ruler = self._load(ruler)
        self._folder = desk.folder / "samples"
        self._folder.mkdir()

    def run(self, loras: Mapping[int, Path | None]) -> None:
        """Measure every epoch that is wanted and not yet vouched for. `loras`: epoch → file, None for
        the bare base.

        Raises JobError when a stop was asked for or an upload failed for good.
        """
        waiting = self._wanted(loras)
        fruitless = 0
        while waiting and fruitless < FRUITLESS_MAX:
            before = len(waiting)
            try:
                self._draw(waiting)
            except DrawingError as error:
                # A child draws in order: what stopped it is the first epoch that is not done.
                self._warn(f"the images of epoch {waiting[0].epoch} were not drawn: {error}")
                fruitless = fruitless + 1 if len(waiting) == before else 0
                waiting.pop(0)
        if waiting:
            epochs = ", ".join(str(canvas.epoch) for canvas in waiting)
            self._warn(f"drawing was given up; not evaluated: epochs {epochs}")

    def _wanted(self, loras: Mapping[int, Path | None]) -> list[Canvas]:
        canvases = []
        for epoch in evaluated_epochs(self._desk.manifest.recipe, self._plan):
            wanted = [keys.samples(epoch)] + ([keys.scores(epoch)] if self._ruler is not None else [])
            if all(key in self._receipts for key in wanted):
                continue
            if epoch not in loras:
                self._warn(f"epoch {epoch} cannot be drawn: its checkpoint is not on this machine")
                continue
            folder = self._folder / f"epoch-{epoch:06d}"
            folder.mkdir()
            canvases.append(Canvas(epoch, loras[epoch], folder))
        return canvases

    def _draw(self, waiting: list[Canvas]) -> None:
        """Run one drawing child; what it has done is taken off `waiting`.

        Any output is a sign of life; its silence is limited like a trainer's.
        """
        desk = self._desk
        heard = begun = time.monotonic()
        last: list[str] = []

        def on_line(line: supervise.Line) -> None:
            nonlocal heard, begun
            heard = time.monotonic()
            desk.log.add(line.text, rewritten=line.rewritten)
            match parse(line.text):
                case EpochDrawn(epoch=epoch, seconds=seconds):
                    done = next((canvas for canvas in waiting if canvas.epoch == epoch), None)
                    if done is not None:
                        self._take(done, drawn_seconds=seconds, begun=begun)
                        waiting.remove(done)
                    begun = time.monotonic()
                case Remark(message=message):
                    self._warn(message)
                case Trouble(message=message):
                    raise DrawingError(desk.redact(message))
                case None:
                    last.append(line.text)
                    del last[:-LAST_LINES]

        def tick() -> None:
            desk.stop.check()
            desk.uploads.check()
            limit = desk.manifest.timing.step_stall_seconds
            if time.monotonic() - heard > limit:
                raise DrawingError(f"the drawing child was silent for {limit:g} seconds")

        task = DrawTask(desk.manifest.recipe, self._base_model, self._plan, tuple(waiting))
        ended = supervise.run(
            self._drawer(task, self._folder / "task.json"),
            on_line=on_line,
            tick=tick,
            grace=desk.grace,
            children=desk.children,
        )
        if waiting:
            words = desk.redact(" / ".join(last))
            raise DrawingError(f"the drawing child ended with {ended.code} before its work was done: {words}")

    def _take(self, canvas: Canvas, *, drawn_seconds: float, begun: float) -> None:
        """Have an epoch's images kept, and measure them. Raises DrawingError when images are missing."""
        desk, epoch = self._desk, canvas.epoch
        desk.status.epoch = epoch
        images = [canvas.out / f"{prompt.name}.png" for prompt in self._plan.prompts]
        if missing := [path.name for path in images if not path.is_file()]:
            raise DrawingError(f"{len(missing)} images are missing, the first of them {missing[0]}")
        archive = canvas.out.with_suffix(".zip")
        zip_images(images, archive)
        sampled = {"epoch": epoch, "images": len(images), "seconds": round(drawn_seconds, 3)}
        self._keep(
            ArtefactKind.SAMPLES, keys.samples(epoch), epoch, archive, lambda: desk.say(Sampled, **sampled)
        )
        if self._ruler is not None:
            try:
                readings = read_images(self._ruler, canvas.out, self._plan.prompts)
            except (RulerError, OSError) as error:
                self._warn(f"the images of epoch {epoch} were not measured: {error}")
                return
            self._keep_scores(epoch, readings, canvas.out.with_suffix(".json"), begun)

    def _keep_scores(self, epoch: int, readings: dict[str, dict[str, str]], path: Path, begun: float) -> None:
        desk = self._desk
        assert self._ruler is not None
        scores = Scores(
            run_id=desk.manifest.run_id,
            attempt=desk.manifest.attempt,
            life=desk.life,
            at=desk.clock.now(),
            epoch=epoch,
            images=len(self._plan.prompts),
            attributes=score(self._ruler.attributes, self._plan.prompts, readings),
            seconds=round(time.monotonic() - begun, 3),
        )
        path.write_bytes(scores.encode())
        hits = {name: (one.hits, one.n) for name, one in scores.attributes.items()}
        self._keep(
            ArtefactKind.SCORES,
            keys.scores(epoch),
            epoch,
            path,
            lambda: desk.say(Evaluated, epoch=epoch, hits=hits),
        )

    def _keep(self, kind: ArtefactKind, key: str, epoch: int, path: Path, tell: Callable[[], None]) -> None:
        """Upload in the background, and tell once it is in the bucket."""
        artefact = Artefact(kind, key, path.name, epoch, self._steps.get(epoch, 0), path)

        def upload() -> None:
            self._desk.vouching.vouch(artefact, self._desk.patience)
            tell()

        self._desk.uploads.submit(upload)

    def _load(self, path: Path | None) -> Ruler | None:
        if path is None:
            return None
        try:
            return load_ruler(path.read_bytes())
        except RulerError as error:
            self._warn(f"images are drawn but not measured: {error}")
            return None

    def _warn(self, message: str) -> None:
        self._desk.say(Warned, message=message)


def zip_images(images: list[Path], archive: Path) -> None:
    """Write a zip that is the same for the same images: in order of name, undated, stored as they are."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for path in sorted(images):
            info = zipfile.ZipInfo(path.name, _ZIP_DATE)
            info.external_attr = 0o644 << 16
            target.writestr(info, path.read_bytes())
