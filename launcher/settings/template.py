"""A retrain.toml that explains itself, made from the settings that there are.

Knows the models of the settings and reads their sources: what a field's docstring says is what people read.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr

from job.contract.recipe import Recipe
from launcher.settings.model import ENVIRONMENT_PREFIX, NESTING, Settings

HEAD = f"""\
# Settings of retrain. Every line that is commented out shows a default: remove the `#` to change it.
# A preset's values take the place of these defaults; docs/settings.md says which preset applies when.
# The environment goes before this file ({ENVIRONMENT_PREFIX}RECIPE{NESTING}MAX_EPOCHS=20), flags before both.
# Relative paths start where the command runs. Keep secrets in the environment, not here.
"""
WIDTH = 100
_PLAIN = {
    "output_name": "What the model is called, and its files.",
    "max_epochs": "Epochs to train.",
    "save_every": "Epochs between two checkpoints; the last epoch is always kept.",
    "batch_size": "Images in one step.",
    "lr_scheduler": "How the learning rate falls.",
    "lr_scheduler_num_cycles": "Restarts of cosine_with_restarts.",
    "lr_warmup_steps": "Steps in which the learning rate rises to its value.",
    "lora_dim": "Rank of the LoRA.",
    "lora_alpha": "Scale of the LoRA: what it learnt counts alpha / dim.",
    "optimizer": "AdamW8bit needs a GPU.",
    "mixed_precision": "What training computes in.",
    "save_precision": "What checkpoints are stored in.",
    "caption_extension": "What caption files end in.",
    "shuffle_caption": "Whether a caption's phrases are shuffled for each step.",
    "max_token_length": "Tokens of a caption that are read.",
    "network_dropout": "Share of the LoRA's neurons dropped in each step.",
    "gradient_checkpointing": "Saves memory, costs time.",
    "cache_latents": "Whether images are encoded once, not in every step.",
    "seed": "Of everything random.",
}
"""For fields of the recipe whose names say enough to developers."""


def template() -> str:
    """Return the text of a retrain.toml with every setting commented out."""
    lines = [HEAD.rstrip()]
    for section, model in sections():
        lines += ["", f"# {_first_line(model)}", f"[{section}]"]
        docs = field_docs(model)
        for key, field in model.model_fields.items():
            for text in (docs.get(key, ""), _choices(field.annotation)):
                lines += textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"#{key} = {written(field.default)}".rstrip())
    return "\n".join(lines) + "\n"


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every section's name and model, in order."""
    for name, field in Settings.model_fields.items():
        assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        yield name, field.annotation


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """Return what each field means, on one line: its docstring where it has one."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(body, ast.ClassDef)
    docs = {key: text for key, text in _PLAIN.items() if model is Recipe}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    docs[statement.target.id] = " ".join(text.split())
    return docs


def written(value: Any) -> str:
    """Return a default as TOML; nothing for one that is not set, which TOML cannot say."""
    match value:
        case None:
            return ""
        case SecretStr():
            raise TypeError("a secret has no default")
        case Enum():
            return json.dumps(value.value)
        case Path():
            return json.dumps(str(value))
        case tuple():
            return json.dumps(list(value))
        case _:
            return json.dumps(value)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _choices(annotation: Any) -> str:
    """Name the values among which a setting chooses, if it does."""
    options = [annotation, *get_args(annotation)]
    for option in options:
        if isinstance(option, type) and issubclass(option, Enum):
            return "One of: " + ", ".join(written(member) for member in option)
        if get_origin(option) is Literal:
            return "One of: " + ", ".join(written(value) for value in get_args(option))
    return ""
