"""Flags of the settings, shared by the commands that take a recipe. Knows click; reads no setting itself."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.errors import UsageError

if TYPE_CHECKING:
    from launcher.settings import Settings

FLAGS = {
    "--training-zip": ("run.training_zip", "PATH", "Zip or folder of captioned images."),
    "--output-name": ("recipe.output_name", "NAME", "What the model is called."),
    "--max-epochs": ("recipe.max_epochs", "N", "Epochs to train."),
    "--save-every": ("recipe.save_every", "N", "Epochs between two checkpoints."),
    "--resolution": ("recipe.resolution", "W,H", "Size in pixels at which images are trained."),
    "--batch-size": ("recipe.batch_size", "N", "Images in one step."),
    "--learning-rate": ("recipe.learning_rate", "RATE", "Of the U-Net."),
    "--text-lr": ("recipe.text_lr", "RATE", "Of the text encoder; 0 leaves it alone."),
    "--lora-dim": ("recipe.lora_dim", "N", "Rank of the LoRA."),
    "--lora-alpha": ("recipe.lora_alpha", "X", "Scale of the LoRA."),
    "--repeat-count": ("recipe.repeat_count", "N", "How often an epoch shows each image."),
    "--init-weights": ("run.init_weights", "PATH", "A LoRA to go on from."),
    "--cap": ("budget.cap_dollars", "DOLLARS", "The most the run may spend."),
    "--max-hours": ("budget.max_hours", "HOURS", "The longest the run may take."),
    "--provider": ("run.provider", "NAME", "Where the pod runs."),
    "--preset": ("run.preset", "NAME", "Defaults below your own settings: tinypunks or sd15."),
}
"""Flag → (setting, placeholder, help). Values stay text: the settings judge them, all together."""


@dataclass(frozen=True)
class SettingsFlags:
    """What the command line says about settings."""

    config: Path | None
    overrides: dict[str, dict[str, str]]
    """Section → key → value; may hold a secret."""

    def __repr__(self) -> str:
        return f"SettingsFlags(config={self.config!r})"

    def load(self) -> "Settings":
        """Put all layers of settings together. Raises UsageError."""
        from launcher.settings import load_settings

        return load_settings(self.config, self.overrides)


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags of the settings; it gets them as one argument, `flags: SettingsFlags`."""

    @wraps(command)
    def with_flags(*args: Any, config: Path | None, assignments: tuple[str, ...], **rest: Any) -> Any:
        overrides: dict[str, dict[str, str]] = defaultdict(dict)
        for assignment in assignments:
            section, key, value = _split(assignment)
            overrides[section][key] = value
        for flag, (setting, _, _) in FLAGS.items():
            value = rest.pop(_parameter(flag))
            if value is not None:
                section, _, key = setting.partition(".")
                overrides[section][key] = value
        return command(*args, flags=SettingsFlags(config, dict(overrides)), **rest)

    decorated: Callable[..., Any] = click.option(
        "--set",
        "assignments",
        metavar="SECTION.KEY=VALUE",
        multiple=True,
        help="Any other setting; may be given several times.",
    )(with_flags)
    for flag, (_, metavar, text) in reversed(FLAGS.items()):
        decorated = click.option(flag, _parameter(flag), metavar=metavar, help=text)(decorated)
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings, instead of retrain.toml here.",
    )(decorated)


def _parameter(flag: str) -> str:
    return "setting_" + flag.removeprefix("--").replace("-", "_")


def _split(assignment: str) -> tuple[str, str, str]:
    setting, equals, value = assignment.partition("=")
    section, dot, key = setting.strip().partition(".")
    if not (equals and dot and section and key):
        # Quotes nothing after the sign: it may be a secret.
        raise UsageError(
            f"--set {setting if equals else '…'}: not of the form section.key=value",
            next_step="write for instance --set recipe.seed=7",
        )
    return section, key, value
