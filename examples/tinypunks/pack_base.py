"""Writes `base/` from what pretraining left: fp16 weights in the layout of StableDiffusionPipeline.

python pack_base.py PRETRAINED_DIRECTORY [base]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer


def pack(source: Path, output: Path) -> None:
    """Replaces `output` by the packed base."""
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(source / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(source / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(source / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(source / "unet"),
        scheduler=DDIMScheduler.from_pretrained(source / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    shutil.rmtree(output, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(output, safe_serialization=True)
    for part in ("unet", "vae", "text_encoder"):
        path = output / part / "config.json"
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # where this machine kept it
        if part == "text_encoder":
            # Stored in half precision, to be computed in full: transformers goes by what is written here.
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")
    # The two files that CLIP's tokenizer was made of, for readers that know nothing newer.
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(source / "tokenizer" / name, output / "tokenizer" / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path, nargs="?", default=Path(__file__).with_name("base"))
    arguments = parser.parse_args()
    pack(arguments.source, arguments.output)
