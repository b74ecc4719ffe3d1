"""What must hold for any bytes at all: a result, or one of our own errors. Anything else is a finding.

Each target takes bytes and returns nothing. It catches the errors that its code promises to raise and lets
everything else through, so that both drivers (hypothesis in the tests, atheris in `make fuzz`) see it.
"""

import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from unittest import mock

from job import environment
from job.contract import keys
from job.contract.events import UnknownEvent, decode_event, decode_log
from job.contract.manifest import RunManifest
from job.contract.reasons import Reason
from job.contract.records import Claim, Heartbeat, Receipt, Scores
from job.contract.schema import ContractError, Message, decode
from job.contract.tensors import MalformedError, inspect, is_complete
from job.errors import JobError
from job.unpack import Zip, unpack_dataset, unpack_tar, unpack_tree
from launcher.dataset.checks import check, require_sound
from launcher.dataset.packing import pack
from launcher.dataset.reading import open_dataset
from launcher.errors import BudgetError, DatasetError, IntegrityError, RetrainError, UsageError
from launcher.journal import Journal
from launcher.model import RunRecord
from launcher.observe import Observer
from launcher.plan import run_spec
from launcher.reconcile import Seen, decide
from launcher.report.summary import summary
from launcher.report.text import leaked_lines, overview_text, result_text
from launcher.results.unpacking import unpack
from launcher.roster import Roster
from launcher.settings import load_settings
from launcher.weights import check_base, check_init_weights
from tests.bad_input.raw_zip import UTF8, Member, raw_zip
from tests.fakes.store import START, FakeStore
from tests.launcher.world import RUN, FakeWorld

FILES_MARK = b"\n\0\n"
"""Between two files in the input of `package_files`."""
PART_MARK = b"\0"
"""Between the parts of other inputs."""
FILES_MAX = 12
SAMPLES = frozenset({"000.png", "001.png"})


def package_bytes(data: bytes) -> None:
    """Any bytes as the zip of a data set, for the launcher and for the pod."""
    with _file(data, "data.zip") as path:
        _read_package(path)
        with suppress(JobError):
            _unpack_in_pod(path)


def package_files(data: bytes) -> None:
    """A sound zip of any names and contents; what the launcher packs, the pod takes."""
    members = []
    for part in data.split(FILES_MARK)[:FILES_MAX]:
        name, _, content = part.partition(b"\n")
        members.append(Member(name[:300], content, flags=UTF8 if name.isascii() or _is_utf8(name) else 0))
    package_bytes(raw_zip(members))


def samples(data: bytes) -> None:
    """Any bytes as the zip of samples that a pod sends home."""
    with _file(data, "epoch-000002.zip") as path, suppress(IntegrityError):
        unpack(path, path.with_suffix(""), SAMPLES)
        assert {item.name for item in path.with_suffix("").iterdir()} <= SAMPLES


def resume_state(data: bytes) -> None:
    """Any bytes as the tar of a resume state; nothing may appear outside its folder."""
    with _file(data, "state.tar") as path:
        folder = path.parent / "state"
        folder.mkdir()
        with suppress(JobError):
            unpack_tar(path, folder)
        assert {item.name for item in path.parent.iterdir()} == {"state", "state.tar"}


def tensors(data: bytes) -> None:
    """Any bytes as a safetensors file."""
    with _file(data, "lora.safetensors") as path, suppress(MalformedError):
        if is_complete(path):
            inspect(path)


def weights(data: bytes) -> None:
    """Any bytes as a base model's zip, and as the LoRA to go on from."""
    with _file(data, "base.zip") as path, suppress(UsageError):
        check_base(path)
    with _file(data, "start.safetensors") as path, suppress(UsageError):
        check_init_weights(path, path.parent, 4)


def manifest(data: bytes) -> None:
    """Any bytes as a pod's manifest."""
    _message(RunManifest, data)


def messages(data: bytes) -> None:
    """Any bytes as one of a pod's small messages; the first byte chooses which."""
    kinds: tuple[type[Message], ...] = (Receipt, Claim, Heartbeat, Scores)
    if data:
        _message(kinds[data[0] % len(kinds)], data[1:])


def events(data: bytes) -> None:
    """Any bytes as an event log: what was understood is ordered, and can be written again."""
    found = decode_log(data)
    assert [event.seq for event in found] == sorted({event.seq for event in found})
    for event in found:
        if not isinstance(event, UnknownEvent):
            assert decode_event(event.encode()) == event


def pod(data: bytes) -> None:
    """Any bytes in the place of all that a pod writes: the launcher looks, decides, and can still write."""
    record, world = _under_way()
    prefix = keys.attempt_prefix(RUN, 1)
    vouched = keys.receipt(keys.checkpoint(record.spec.recipe.checkpoint_name(2)))
    others = (keys.heartbeat(1), keys.claim(1), keys.events(2), keys.receipt("../../x"))
    names = (keys.events(1), vouched, *others)
    for name in names:
        world.store.delete(prefix + name)
    for name, content in zip(names, data.split(PART_MARK), strict=False):
        world.store.put(prefix + name, content)
    seen = Observer(world.store, world.pods, record).look(record, Roster(world.pods, world.store.now()))
    after = decide(record, seen).record
    assert decode(RunRecord, after.encode()) == after
    result_text(summary(after, seen.now))


def record(data: bytes) -> None:
    """Any bytes as the record of a run: every command that meets it goes on or says what is wrong."""
    store = FakeStore()
    store.put(keys.record_key(RUN), data)
    journal = Journal(store, "launcher-1")
    assert len(journal.records(lambda _: None)) <= 1
    with suppress(RetrainError):
        found = journal.read(RUN)
        result = summary(found, START)
        result_text(result), overview_text([result]), leaked_lines(found)
        after = decide(found, Seen(START)).record
        assert decode(RunRecord, after.encode()) == after


def name_lock(data: bytes) -> None:
    """Any bytes as the lock on an output name."""
    store = FakeStore()
    store.put(keys.name_lock_key("punks"), data)
    with suppress(RetrainError):
        Journal(store, "launcher-1").is_open("punks")


def settings(data: bytes) -> None:
    """Any bytes as retrain.toml, environment and flags; what is accepted can be put on record."""
    toml, variables, flags = [*data.split(PART_MARK), b"", b""][:3]
    overrides: dict[str, dict[str, str]] = {}
    for line in flags.decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        overrides.setdefault(section, {})[key] = value
    with _file(toml, "retrain.toml") as path, _environment(variables), suppress(UsageError, BudgetError):
        found = load_settings(path, overrides)
        spec = run_spec(found, (), None, place="here")
        made = RunRecord(run_id=RUN, created_at=START, spec=spec)
        assert decode(RunRecord, made.encode()) == made


def pod_environment(data: bytes) -> None:
    """Any bytes as a pod's environment."""
    names = ("RETRAIN_MANIFEST_URL", "RETRAIN_DEADLINE", "RETRAIN_POD_ID")
    values = (part.decode(errors="surrogateescape") for part in data.split(PART_MARK))
    with suppress(environment.EnvironmentProblem):
        environment.parse({"RETRAIN_SCRATCH": "x", **dict(zip(names, values, strict=False))})


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        package_bytes, package_files, samples, resume_state, tensors, weights, manifest, messages, events,
        pod, record, name_lock, settings, pod_environment,
    )
}  # fmt: skip


def _read_package(path: Path) -> None:
    """Check and pack a package as the commands do; unpack what was packed as the pod does."""
    with suppress(DatasetError), open_dataset(path) as dataset:
        findings = check(dataset)
        for finding in findings:
            said = finding.file + finding.seen + finding.advice
            assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in said), finding
        require_sound(dataset, findings)
        packed = pack(dataset, path.with_name("packed.zip"))
        images = _unpack_in_pod(packed.path)
        assert images == len(dataset.pairs), "the pod unpacks what the launcher packed"


def _unpack_in_pod(path: Path) -> int:
    """Unpack a data set as the pod does, and once more as if it were a base model."""
    for number, unpacking in enumerate(("tree", "data")):
        archive = Zip(path, reason=Reason.BAD_DATASET, noun="the dataset")
        folder = path.with_name(f"{path.stem}-{unpacking}")
        try:
            if number == 0:
                with suppress(JobError):
                    unpack_tree(archive, folder)
            else:
                return unpack_dataset(archive, folder, repeat_count=2, caption_extension=".txt")
        finally:
            archive.close()
            shutil.rmtree(folder, ignore_errors=True)
    raise AssertionError("unreachable")


def _message(kind: type[Message], data: bytes) -> None:
    with suppress(ContractError):
        read = decode(kind, data)
        assert decode(kind, read.encode()) == read


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    """Lend a file of this content in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="retrain-fuzz-") as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


@contextmanager
def _environment(variables: bytes) -> Iterator[None]:
    """Set NAME=VALUE lines, names with RETRAIN_ in front; whatever else RETRAIN_ is set is hidden."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RETRAIN_")}
    for line in variables.splitlines():
        name, equals, value = line.partition(b"=")
        if equals:
            kept["RETRAIN_" + os.fsdecode(name)] = os.fsdecode(value)
    with mock.patch.dict(os.environ, kept, clear=True):
        yield


@cache
def _under_way() -> tuple[RunRecord, FakeWorld]:
    """A run whose first pod was just made."""
    world = FakeWorld(Path(tempfile.gettempdir()) / "retrain-fuzz-never-written")
    world.start()
    made = world.loop().drive(RUN, until=lambda found: bool(found.attempts and found.attempts[0].pod_ids))
    return made, world
