"""Inputs on disk: fetched, verified, unpacked, and room for what will be written. Knows the desk, not
training.
"""

from dataclasses import dataclass, field
from pathlib import Path

from job.contract.events import Prepared
from job.contract.manifest import Input, InputRole, RunManifest
from job.contract.reasons import Reason
from job.contract.tensors import MalformedError, check_start, is_complete
from job.desk import Desk
from job.errors import JobError
from job.files import free_bytes, human
from job.patience import MissingError
from job.trainers.base import ResumeFrom
from job.transfer import fetch_verified
from job.unpack import Zip, unpack_dataset, unpack_tree

LORA_BYTES_PER_RANK = 1_200_000
"""Of an SD 1.5 LoRA in 16 bits: rank 32 makes 38 MB."""
STATE_PER_CHECKPOINT = 6
"""Resume state holds the weights and two Adam moments in 32 bits."""
STATES_ON_DISK = 3
"""One being written, one being packed, and its tar."""
PNG_BYTES_PER_PIXEL = 3
"""Of incompressible RGB: the upper bound of a sample."""


@dataclass(frozen=True)
class Room:
    """What will still be written to this disk, in bytes, most of it estimated."""

    parts: dict[str, int] = field(default_factory=dict)

    @property
    def needed(self) -> int:
        """Sum of all parts."""
        return sum(self.parts.values())

    def check(self, free: int) -> None:
        """Raise JobError(DISK_FULL) with all figures when it does not fit."""
        if self.needed > free:
            parts = ", ".join(f"{human(size)} {what}" for what, size in self.parts.items() if size)
            raise JobError(
                Reason.DISK_FULL,
                f"{human(free)} are free on the disk, an estimated {human(self.needed)} are needed: {parts}",
            )


@dataclass(frozen=True)
class Workplace:
    """What training and evaluation find on the disk."""

    data_dir: Path
    base_model: Path
    output_dir: Path
    init_weights: Path | None
    ruler: Path | None
    earlier: dict[int, Path]
    """Epoch → checkpoint of an earlier attempt."""
    images: int
    room: Room
    checkpoint_bytes: int
    """Estimated size of one checkpoint."""


def checkpoint_bytes(manifest: RunManifest) -> int:
    """Estimate the size of one checkpoint: that of a LoRA at hand, else by rank."""
    for role in (InputRole.CHECKPOINT, InputRole.INIT_WEIGHTS):
        if sizes := [item.bytes for item in manifest.inputs_for(role)]:
            return max(sizes)
    width = 2 if manifest.recipe.save_precision == "float" else 1
    return LORA_BYTES_PER_RANK * manifest.recipe.lora_dim * width


def room_for(manifest: RunManifest, unpacked: int, checkpoints: int) -> Room:
    """Estimate what a run writes besides its inputs, `unpacked` bytes of archives included."""
    recipe, plan, size = manifest.recipe, manifest.evaluation, checkpoint_bytes(manifest)
    images = len(plan.prompts) * (checkpoints + plan.measure_start) if plan is not None else 0
    return Room(
        {
            "of inputs unpacked": unpacked,
            f"for {checkpoints} checkpoints": size * checkpoints,
            "for resume states": size * STATE_PER_CHECKPOINT * STATES_ON_DISK,
            "for samples": 2 * images * recipe.resolution[0] * recipe.resolution[1] * PNG_BYTES_PER_PIXEL,
        }
    )


def prepare(desk: Desk, *, checkpoints: int) -> Workplace:
    """Fetch and unpack the inputs. `checkpoints`: how many this life is going to write."""
    manifest, folder = desk.manifest, desk.folder
    wanted = [item for item in manifest.inputs if item.role is not InputRole.RESUME_STATE]
    Room({"of inputs": sum(item.bytes for item in wanted)}).check(free_bytes(folder))
    inputs = folder / "inputs"
    inputs.mkdir()
    paths = {item.name: _fetch(desk, item, inputs / item.name) for item in wanted}

    def path_of(role: InputRole) -> Path | None:
        item = manifest.input_for(role)
        return paths[item.name] if item is not None else None

    dataset, base = path_of(InputRole.DATASET), path_of(InputRole.BASE_MODEL)
    if dataset is None or base is None:
        raise JobError(Reason.BAD_INPUT, "the manifest names no dataset or no base model")
    images = Zip(dataset, reason=Reason.BAD_DATASET, noun="the dataset")
    tree = _base_model(base)
    room = room_for(manifest, images.bytes + (tree.bytes if tree is not None else 0), checkpoints)
    free = free_bytes(folder)
    room.check(free)
    recipe = manifest.recipe
    data_dir = folder / "data"
    count = unpack_dataset(
        images, data_dir, repeat_count=recipe.repeat_count, caption_extension=recipe.caption_extension
    )
    images.close()
    dataset.unlink()
    if tree is not None:
        unpack_tree(tree, folder / "base")
        tree.close()
        base.unlink()
        base = model_folder(folder / "base")
    output_dir = folder / "output"
    output_dir.mkdir()
    init_weights = path_of(InputRole.INIT_WEIGHTS)
    if init_weights is not None:
        _check_start(init_weights, recipe.lora_dim)
    return Workplace(
        data_dir=data_dir,
        base_model=base,
        output_dir=output_dir,
        init_weights=init_weights,
        ruler=path_of(InputRole.RULER),
        earlier={
            item.epoch: paths[item.name]
            for item in manifest.inputs_for(InputRole.CHECKPOINT)
            if item.epoch is not None
        },
        images=count,
        room=room,
        checkpoint_bytes=checkpoint_bytes(manifest),
    )


def tell(desk: Desk, place: Workplace, resume: ResumeFrom | None) -> None:
    """Record what was prepared."""
    desk.say(
        Prepared,
        images=place.images,
        bytes=sum(item.bytes for item in desk.manifest.inputs),
        disk_free_bytes=free_bytes(desk.folder),
        disk_needed_bytes=place.room.needed,
        resumed_epoch=resume.epoch if resume else 0,
        resumed_step=resume.step if resume else 0,
    )


def model_folder(folder: Path) -> Path:
    """Return the diffusers folder below `folder`, however deep it was packed. Raises
    JobError(BAD_BASE_MODEL).
    """
    found = sorted(folder.rglob("model_index.json"), key=lambda path: (len(path.parts), path))
    if not found:
        raise JobError(Reason.BAD_BASE_MODEL, "the base model's zip holds no model_index.json")
    return found[0].parent


def _fetch(desk: Desk, item: Input, target: Path) -> Path:
    try:
        whole = fetch_verified(
            desk.transfer,
            item.link,
            f"input {item.name}",
            target,
            size=item.bytes,
            sha256=item.sha256,
            patience=desk.working_patience,
        )
    except MissingError:
        raise JobError(Reason.BAD_INPUT, f"input {item.name} is not in the bucket") from None
    if not whole:
        raise JobError(
            Reason.BAD_INPUT, f"input {item.name} is not what the manifest says: its SHA-256 differs"
        )
    return target


def _base_model(path: Path) -> Zip | None:
    """Return the zip of a diffusers folder, or None for a safetensors file."""
    if path.suffix == ".zip":
        return Zip(path, reason=Reason.BAD_BASE_MODEL, noun="the base model")
    if path.suffix != ".safetensors":
        raise JobError(Reason.BAD_BASE_MODEL, f"{path.name} is neither a zip nor a .safetensors file")
    try:
        complete = is_complete(path)
    except MalformedError as error:
        raise JobError(Reason.BAD_BASE_MODEL, str(error)) from None
    if not complete:
        raise JobError(Reason.BAD_BASE_MODEL, f"{path.name} is shorter than its own header says")
    return None


def _check_start(path: Path, rank: int) -> None:
    """Refuse a LoRA before a trainer loads gigabytes, and by its own name rather than as a bad loss."""
    try:
        check_start(path, rank)
    except MalformedError as error:
        raise JobError(Reason.BAD_INIT_WEIGHTS, str(error)) from None
