"""Draws the images of each epoch in a child process, measures them, and has both kept. Knows the desk, not
torch.

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
from job.desk import Desk
from job.evaluate.base import Drawer, DrawingTask
from job.evaluate.ruler import Ruler, RulerError, load_ruler
from job.evaluate.scores import read_images, score
from job.files import fresh_folder
from job.uploads import Artefact

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_LAST_LINES = 5


class DrawingError(Exception):
    """The images of an epoch could not be drawn."""


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
    ) -> None:
        assert desk.manifest.evaluation is not None
        self._desk = desk
        self._drawer = drawer
        self._plan = desk.manifest.evaluation
        self._base_model = base_model
        self._receipts = receipts
        self._ruler = self._load(ruler)

    def run(self, loras: Mapping[int, Path | None]) -> None:
        """Measure every epoch that is wanted and not yet vouched for. `loras`: epoch → file, None: the bare
        base.

        Raises JobError when a stop was asked for or an upload failed for good.
        """
        for epoch in evaluated_epochs(self._desk.manifest.recipe, self._plan):
            wanted = [keys.samples(epoch)] + ([keys.scores(epoch)] if self._ruler is not None else [])
            if all(key in self._receipts for key in wanted):
                continue
            if epoch not in loras:
                self._warn(f"epoch {epoch} cannot be drawn: its checkpoint is not on this machine")
                continue
            try:
                self._measure(epoch, loras[epoch])
            except (DrawingError, RulerError, OSError) as error:
                self._warn(f"the evaluation of epoch {epoch} failed: {error}")

    def _measure(self, epoch: int, lora: Path | None) -> None:
        desk, begun = self._desk, time.monotonic()
        desk.status.epoch = epoch
        folder = fresh_folder(desk.folder / "samples" / f"epoch-{epoch:06d}")
        self._draw(
            DrawingTask(
                plan=self._plan,
                base_model=self._base_model,
                lora=lora,
                resolution=desk.manifest.recipe.resolution,
                max_token_length=desk.manifest.recipe.max_token_length,
                folder=folder,
            )
        )
        images = [folder / f"{prompt.name}.png" for prompt in self._plan.prompts]
        if missing := [path.name for path in images if not path.is_file()]:
            raise DrawingError(f"{len(missing)} images were not drawn, the first of them {missing[0]}")
        drawn_seconds = time.monotonic() - begun
        archive = folder.with_suffix(".zip")
        zip_images(images, archive)
        sampled = {"epoch": epoch, "images": len(images), "seconds": round(drawn_seconds, 3)}
        self._keep(
            ArtefactKind.SAMPLES, keys.samples(epoch), epoch, archive, lambda: desk.say(Sampled, **sampled)
        )
        if self._ruler is None:
            return
        scores = Scores(
            run_id=desk.manifest.run_id,
            attempt=desk.manifest.attempt,
            life=desk.life,
            at=desk.clock.now(),
            epoch=epoch,
            images=len(images),
            attributes=score(
                self._ruler.attributes,
                self._plan.prompts,
                read_images(self._ruler, folder, self._plan.prompts),
            ),
            seconds=round(time.monotonic() - begun, 3),
        )
        path = folder.with_suffix(".json")
        path.write_bytes(scores.encode())
        hits = {name: (one.hits, one.n) for name, one in scores.attributes.items()}
        self._keep(
            ArtefactKind.SCORES,
            keys.scores(epoch),
            epoch,
            path,
            lambda: desk.say(Evaluated, epoch=epoch, hits=hits),
        )

    def _draw(self, task: DrawingTask) -> None:
        """Run the drawing child. Any output is a sign of life; its silence is limited like a trainer's."""
        desk, heard = self._desk, time.monotonic()
        last: list[str] = []

        def on_line(line: supervise.Line) -> None:
            nonlocal heard
            heard = time.monotonic()
            desk.log.add(line.text, rewritten=line.rewritten)
            last.append(line.text)
            del last[:-_LAST_LINES]

        def tick() -> None:
            desk.stop.check()
            desk.uploads.check()
            limit = desk.manifest.timing.step_stall_seconds
            if time.monotonic() - heard > limit:
                raise DrawingError(f"no output for {limit:g} seconds")

        ended = supervise.run(
            self._drawer(task), on_line=on_line, tick=tick, grace=desk.grace, children=desk.children
        )
        if ended.code != 0:
            raise DrawingError(f"the drawing child ended with {ended.code}: {desk.redact(' / '.join(last))}")

    def _keep(self, kind: ArtefactKind, key: str, epoch: int, path: Path, tell: Callable[[], None]) -> None:
        """Upload in the background, and tell once it is in the bucket."""
        artefact = Artefact(kind, key, path.name, epoch, self._desk.status.step, path)

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
