"""Before any pod: check the data, pack it, put every input into the bucket, write the run's record.

Knows the data set, settings, the store as a port. Nothing that costs money happens here.
"""

import secrets
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from job.contract import keys
from job.contract.manifest import InputRole, SamplePrompt
from launcher.dataset.checks import check, require_sound
from launcher.dataset.packing import pack
from launcher.dataset.reading import open_dataset
from launcher.errors import UsageError
from launcher.machine.files import disk_errors, sha256_of
from launcher.manifests import EXPIRY_MARGIN, refuse_early_expiry
from launcher.model import InputFile, RunRecord
from launcher.plan import evaluation_plan, prompts_of_captions, prompts_of_ruler, run_spec
from launcher.ports import Notifier, Store
from launcher.results.home import Home
from launcher.settings import Settings, example_dir
from launcher.weights import check_base, check_init_weights

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Source:
    """Where the inputs of a run lie on this machine."""

    dataset: Path
    base_model: Path
    init_weights: Path | None = None
    ruler: Path | None = None
    """Measures the attributes of the data set it was made for, and of no other."""


def find_source(settings: Settings) -> Source:
    """Return the files that the settings name; what they leave open is the embedded example's.

    Raises UsageError naming what is not there, or is no base model, or no LoRA for this recipe.
    """
    run = settings.run
    example = example_dir() if run.training_zip is None or run.base_model is None else None
    found = Source(
        dataset=run.training_zip or _of(example, "dataset.zip"),
        base_model=run.base_model or _of(example, "base"),
        init_weights=run.init_weights,
        ruler=_of(example, "ruler.json") if run.training_zip is None and run.base_model is None else None,
    )
    for path in (found.dataset, found.base_model, found.init_weights, found.ruler):
        if path is not None and not path.exists():
            raise UsageError(f"there is no {path}", next_step="check the path")
    with disk_errors("the base model or the init weights cannot be read"):
        check_base(found.base_model)
        if found.init_weights is not None:
            check_init_weights(found.init_weights, found.base_model, settings.recipe.lora_dim)
    return found


def stage(
    settings: Settings,
    store: Store,
    home: Home,
    notifier: Notifier,
    *,
    now: datetime,
    place: str,
    settle: Callable[[RunRecord], RunRecord] = lambda record: record,
) -> RunRecord:
    """Bring everything a run needs into the bucket and return its record, not yet written.

    `now` is the store's time, `place` the provider's. `settle` gets the record before anything is uploaded
    and returns it as it may be; what it raises goes on up.
    Raises DatasetError when the data cannot be trained, LocalDiskError when the results could not be kept.
    """
    home.check()
    source = find_source(settings)
    if settings.run.training_zip is not None and settings.run.base_model is None:
        notifier.say(
            "this trains the example's tiny base: a rehearsal on your data, not a model to use;"
            " set run.base_model to train a real one"
        )
    run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    with home.passing() as scratch, disk_errors("the run's inputs cannot be prepared"):
        dataset, captions = _packed(settings, source.dataset, scratch, notifier)
        files = {InputRole.DATASET: dataset, InputRole.BASE_MODEL: _base(source.base_model, scratch)}
        prompts: tuple[SamplePrompt, ...] = prompts_of_captions(captions, seed=settings.recipe.seed)
        if source.ruler is not None:
            files[InputRole.RULER] = source.ruler
            prompts = prompts_of_ruler(source.ruler.read_bytes(), seed=settings.recipe.seed)
        if source.init_weights is not None:
            files[InputRole.INIT_WEIGHTS] = source.init_weights
        inputs = [_described(run_id, role, path) for role, path in files.items()]
        record = RunRecord(
            run_id=run_id,
            created_at=now,
            spec=run_spec(
                settings, inputs, evaluation_plan(settings, prompts), place=place, images=len(captions)
            ),
        )
        record = settle(record)
        _refuse_links_that_end_early(record, store)
        notifier.say(f"uploading {sum(item.bytes for item in inputs) / 1e6:.2f} MB")
        store.upload_all({item.key: path for item, path in zip(inputs, files.values(), strict=True)})
        for item in inputs:
            notifier.say(f"staged {item.name}, {item.bytes / 1e6:.2f} MB, SHA-256 {item.sha256[:12]}")
    return record


def _of(example: Path | None, name: str) -> Path:
    if example is None:
        raise UsageError("a data set and a base model must be named together")
    return example / name


def _packed(settings: Settings, path: Path, scratch: Path, notifier: Notifier) -> tuple[Path, list[str]]:
    with open_dataset(path, caption_extension=settings.recipe.caption_extension) as dataset:
        findings = check(dataset)
        require_sound(dataset, findings)
        for finding in findings[:FINDINGS_SHOWN]:
            notifier.say(f"{finding.severity.value}: {finding.file} {finding.seen}; {finding.advice}")
        if len(findings) > FINDINGS_SHOWN:
            notifier.say(f"and {len(findings) - FINDINGS_SHOWN} more: `retrain check {path}` lists them all")
        packed = pack(dataset, scratch / "dataset.zip")
        notifier.say(f"checked {packed.images} images with captions: nothing that would stop a training")
        return packed.path, [pair.caption for pair in dataset.pairs]


FINDINGS_SHOWN = 5


def _base(path: Path, scratch: Path) -> Path:
    """Return one file for a base model: a folder becomes a zip that depends on its content alone."""
    if path.is_file():
        return path
    target = scratch / "base.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(item for item in path.rglob("*") if item.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(path).as_posix(), ZIP_EPOCH)
            with file.open("rb") as content, archive.open(entry, "w", force_zip64=True) as packed:
                while chunk := content.read(1 << 20):
                    packed.write(chunk)
    return target


def _described(run_id: str, role: InputRole, path: Path) -> InputFile:
    digest = sha256_of(path)
    name = f"{role.value}{path.suffix}"
    return InputFile(
        role=role, name=name, key=keys.input_key(run_id, name), bytes=path.stat().st_size, sha256=digest
    )


def _refuse_links_that_end_early(record: RunRecord, store: Store) -> None:
    """Refuse a run that could last longer than links to the store can, before anything is on record."""
    last_deadline = record.created_at + timedelta(seconds=record.spec.budget.max_seconds)
    link = store.presign_get(record.spec.inputs[0].key, expires_at=last_deadline + 2 * EXPIRY_MARGIN)
    refuse_early_expiry(link.expires_at, last_deadline)
