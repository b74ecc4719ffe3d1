"""The table, part two: settings, flags, the environment, and the folders of this machine."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from launcher.errors import Exit
from tests.bad_input.place import Place
from tests.launcher.dataset.packages import image, pairs, zipped

RUN = ("run", "--training-zip", "set.zip")
MANY_BYTES = 2_000_000


@dataclass(frozen=True)
class Command:
    """One way to ask for what cannot be done."""

    id: str
    given: Callable[[Place], object]
    """Writes what the command meets."""
    arguments: tuple[str, ...]
    says: tuple[str, ...]
    code: Exit = Exit.USAGE
    with_bucket: bool = True
    """Whether the bucket of the shared server is configured beforehand."""


def toml(text: str | bytes) -> Callable[[Place], object]:
    """Write retrain.toml."""
    return lambda place: place.file("retrain.toml", text)


def variable(name: str, value: str) -> Callable[[Place], object]:
    """Set one variable of the environment."""
    return lambda place: place.setenv(**{name: value})


def nothing(_: Place) -> None:
    """Write nothing."""


def recipe(key: str, value: str) -> Callable[[Place], object]:
    """Write a recipe of one line."""
    return toml(f"[recipe]\n{key} = {value}\n")


def storage(id_: str, lines: str, *says: str) -> Command:
    """Return the case of a [storage] table, without the shared server's settings on top of it."""
    return Command(id_, toml(f"[storage]\n{lines}\n"), RUN, says, with_bucket=False)


SETTINGS = (
    # Values out of range.
    Command("rank-zero", recipe("lora_dim", "0"), RUN, ("recipe.lora_dim", "greater than", "retrain.toml")),
    Command("rank-huge", recipe("lora_dim", "5000"), RUN, ("recipe.lora_dim", "less than", "retrain.toml")),
    Command("epochs-negative", nothing, (*RUN, "--max-epochs", "-3"), ("recipe.max_epochs", "from flags")),
    Command("epochs-astronomic", recipe("max_epochs", "99999999"), RUN, ("recipe.max_epochs",)),
    Command("save-every-zero", recipe("save_every", "0"), RUN, ("recipe.save_every", "greater than")),
    Command(
        "batch-zero",
        variable("RETRAIN_RECIPE__BATCH_SIZE", "0"),
        RUN,
        ("recipe.batch_size", "from environment"),
    ),
    Command("rate-not-a-number", recipe("learning_rate", "nan"), RUN, ("recipe.learning_rate", "finite")),
    Command("rate-infinite", nothing, (*RUN, "--text-lr", "inf"), ("recipe.text_lr", "from flags")),
    Command("alpha-zero", nothing, (*RUN, "--lora-alpha", "0"), ("recipe.lora_alpha", "greater than 0")),
    Command("resolution-odd", nothing, (*RUN, "--resolution", "510,512"), ("multiples of 8",)),
    Command("resolution-three-sides", nothing, (*RUN, "--resolution", "8,8,8"), ("recipe.resolution",)),
    Command(
        "dropout-of-one", recipe("network_dropout", "1.0"), RUN, ("recipe.network_dropout", "less than 1")
    ),
    Command("seed-negative", recipe("seed", "-1"), RUN, ("recipe.seed",)),
    Command("name-a-path", nothing, (*RUN, "--output-name", "../evil"), ("recipe.output_name", "file name")),
    Command("name-empty", nothing, (*RUN, "--output-name", ""), ("recipe.output_name", "file name")),
    Command(
        "extension-without-dot", recipe("caption_extension", '"txt"'), RUN, ("recipe.caption_extension",)
    ),
    Command("cap-zero", nothing, (*RUN, "--cap", "0"), ("budget.cap_dollars", "greater than 0")),
    Command(
        "hours-shorter-than-reserve", nothing, (*RUN, "--max-hours", "0.1"), ("teardown_reserve_minutes",)
    ),
    Command(
        "cap-below-the-reserve",
        variable("RETRAIN_BUDGET__LOCAL_PRICE_PER_HOUR", "100"),
        (*RUN, "--cap", "1"),
        ("$1.00 does not pay",),
        Exit.BUDGET,
    ),
    # Values of another type.
    Command("epochs-a-word", nothing, (*RUN, "--max-epochs", "many"), ("recipe.max_epochs", "from flags")),
    Command("epochs-a-list", recipe("max_epochs", "[1]"), RUN, ("recipe.max_epochs", "retrain.toml")),
    Command("epochs-a-fraction", recipe("max_epochs", "1.5"), RUN, ("recipe.max_epochs",)),
    Command("flag-a-word", recipe("shuffle_caption", '"perhaps"'), RUN, ("recipe.shuffle_caption",)),
    Command("scheduler-unknown", recipe("lr_scheduler", '"magic"'), RUN, ("recipe.lr_scheduler", "cosine")),
    Command("section-a-number", toml("recipe = 3\n"), RUN, ("recipe", "dictionary")),
    Command("provider-unknown", nothing, (*RUN, "--provider", "moon"), ("run.provider", "process")),
    Command("preset-unknown", nothing, (*RUN, "--preset", "sd99"), ("run.preset", "tinypunks")),
    # Keys that do not exist.
    Command("key-misspelt", recipe("max_epoch", "3"), RUN, ("recipe.max_epoch", "did you mean max_epochs")),
    Command("section-misspelt", toml("[recipie]\n"), RUN, ("recipie", "did you mean recipe")),
    Command("key-elsewhere", toml("[run]\ncap_dollars = 1\n"), RUN, ("did you mean budget.cap_dollars",)),
    Command(
        "variable-misspelt",
        variable("RETRAIN_RECIPE__MAX_EPOCH", "3"),
        RUN,
        ("recipe.max_epoch", "from environment"),
    ),
    Command(
        "variable-without-section",
        variable("RETRAIN_LORA_DIM", "8"),
        RUN,
        ("RETRAIN_LORA_DIM", "did you mean RETRAIN_RECIPE__LORA_DIM?"),
    ),
    Command(
        "variable-of-one-underscore",
        variable("RETRAIN_RECIPE_BATCH_SIZE", "8"),
        RUN,
        ("RETRAIN_RECIPE_BATCH_SIZE", "did you mean RETRAIN_RECIPE__BATCH_SIZE?"),
    ),
    Command("variable-of-no-section", variable("RETRAIN_RECIPIE__X", "3"), RUN, ("recipie", "environment")),
    Command("flag-misspelt", nothing, (*RUN, "--max-epoch", "3"), ("--max-epoch", "--max-epochs")),
    Command("set-of-no-setting", nothing, (*RUN, "--set", "recipe.rank=3"), ("recipe.rank", "from flags")),
    Command("set-without-a-sign", nothing, (*RUN, "--set", "recipe.seed"), ("--set", "section.key=value")),
    Command("command-misspelt", nothing, ("rnu",), ("rnu", "did you mean run")),
    Command("argument-too-many", nothing, ("check", "a", "b"), ("b",)),
    # The file itself.
    Command("toml-broken", toml('[recipe\nlora_dim = "'), RUN, ("retrain.toml", "not valid TOML", "line 1")),
    Command("toml-not-utf8", toml(b"[run]\n# \xff\n"), RUN, ("retrain.toml", "line 2 is not UTF-8")),
    Command("toml-too-deep", toml("x = " + "[" * 5000), RUN, ("retrain.toml", "not valid TOML")),
    Command("toml-huge", toml("#" * MANY_BYTES), RUN, ("retrain.toml", "too large")),
    Command(
        "toml-a-folder", lambda place: place.file("retrain.toml/x"), RUN, ("retrain.toml", "cannot be read")
    ),
    Command("toml-a-picture", toml(image()), RUN, ("retrain.toml", "UTF-8")),
    Command("toml-absent", nothing, (*RUN, "--config", "nowhere.toml"), ("nowhere.toml", "cannot be read")),
    Command(
        "variable-not-utf8",
        variable("RETRAIN_RECIPE__OUTPUT_NAME", os.fsdecode(b"\xff")),
        RUN,
        ("output_name",),
    ),
    # What settings point to.
    Command("data-absent", nothing, ("run", "--training-zip", "nowhere.zip"), ("nowhere.zip", "there is no")),
    storage("bucket-name", 'bucket = "No_Bucket"', "storage.bucket"),
    storage("endpoint-without-bucket", 'endpoint_url = "http://x"', "needs a bucket"),
    storage("endpoint-no-url", 'bucket = "abc"\nendpoint_url = "x"', "endpoint_url"),
    storage(
        "endpoint-half-a-bracket",
        'bucket = "abc"\nendpoint_url = "http://[bad"',
        "endpoint_url",
        "URL such as",
    ),
    storage(
        "endpoint-port", 'bucket = "abc"\nendpoint_url = "http://x:99999"', "endpoint_url", "URL such as"
    ),
    storage(
        "key-of-two-lines", 'bucket = "abc"\naccess_key = "a\\nb"\nsecret_key = "x"', "storage.access_key"
    ),
    storage("half-a-key", 'bucket = "abc"\naccess_key = "x"', "secret_key", "together"),
    storage("no-keys-at-all", 'bucket = "abc"', "No keys for the bucket"),
    *(
        Command(f"path-{what}-{key}", toml(f'[run]\n{key} = "{value}"\n'), ("run",), (f"run.{key}", says))
        for key in ("training_zip", "base_model", "init_weights", "models_dir", "workspace")
        for what, value, says in (
            ("with-a-nul", "a\\u0000b", "no path can have"),
            ("too-long", "a" * 5000, "too long for a path"),
            ("empty", "", "must not be empty"),
        )
    ),
    # Where things go.
    Command(
        "models-dir-is-a-file",
        lambda place: place.file("models"),
        RUN,
        ("models", "cannot be kept", "Not a directory"),
        Exit.INFRASTRUCTURE,
    ),
    Command(
        "models-dir-unwritable",
        variable("RETRAIN_RUN__MODELS_DIR", "/proc/models"),
        RUN,
        ("/proc/models", "cannot be kept"),
        Exit.INFRASTRUCTURE,
    ),
    Command(
        "workspace-is-a-file",
        lambda place: place.file(".retrain"),
        RUN,
        (".retrain", "cannot be"),
        Exit.INFRASTRUCTURE,
    ),
    Command(
        "pack-into-nowhere",
        nothing,
        ("pack", "set.zip", "-o", "nowhere/out.zip"),
        ("nowhere/out.zip", "cannot be written"),
        Exit.INFRASTRUCTURE,
    ),
    Command(
        "pack-onto-a-folder",
        lambda place: place.file("out.zip/x"),
        ("pack", "set.zip", "-o", "out.zip"),
        ("out.zip", "cannot be written"),
        Exit.INFRASTRUCTURE,
    ),
    Command("init-twice", toml("# mine\n"), ("init",), ("retrain.toml", "already there", "--force")),
    Command(
        "init-into-nowhere",
        nothing,
        ("init", "-o", "nowhere/x.toml"),
        ("nowhere/x.toml", "cannot be written"),
    ),
    Command("attach-to-nothing", nothing, ("attach",), ("there is no run",)),
    Command("cancel-of-a-stranger", nothing, ("cancel", "20990101"), ("there is no run 20990101",)),
)


def sound_set(place: Place) -> None:
    """Write set.zip, which is sound."""
    zipped(place.folder / "set.zip", pairs(2, ""))
