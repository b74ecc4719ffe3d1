"""A checkpoint in kohya's file format, with the metadata that sd-scripts writes and others read.

Holds no times, so that the same training gives the same bytes, resumed or not.
"""

import hashlib
import json
from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor

from job.contract.recipe import Recipe
from job.trainers.embedded.base_model import BaseModel
from job.trainers.embedded.dataset import Dataset

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "float": torch.float32}


def encode_checkpoint(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the safetensors file, with the hash of its tensors in the metadata."""
    blob: bytes = save(tensors)
    start = 8 + int.from_bytes(blob[:8], "little")
    body = memoryview(blob)[start:]
    digest = hashlib.sha256(body).hexdigest()
    hashes = {"sshs_model_hash": digest, "modelspec.hash_sha256": f"0x{digest}"}
    # The library writes metadata in an order of chance; sorted, the same training gives the same bytes.
    header = json.loads(blob[8:start]) | {"__metadata__": dict(sorted({**metadata, **hashes}.items()))}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return b"".join((len(text).to_bytes(8, "little"), text, body))


def describe(recipe: Recipe, dataset: Dataset, base: BaseModel, *, epoch: int, step: int) -> dict[str, str]:
    """Return the metadata of the checkpoint after `epoch`; names and spellings are sd-scripts'."""
    width, height = recipe.resolution
    folder = dataset.folder.name
    per_epoch = recipe.steps_per_epoch(len(dataset.images))
    facts: dict[str, object] = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": recipe.lora_dim,
        "ss_network_alpha": recipe.lora_alpha,
        "ss_network_dropout": recipe.network_dropout or None,
        "ss_output_name": recipe.output_name,
        "ss_learning_rate": recipe.learning_rate,
        "ss_unet_lr": recipe.learning_rate,
        "ss_text_encoder_lr": recipe.text_lr,
        "ss_lr_scheduler": recipe.lr_scheduler,
        "ss_lr_warmup_steps": recipe.lr_warmup_steps,
        "ss_optimizer": recipe.optimizer,
        "ss_num_train_images": len(dataset.images) * recipe.repeat_count,
        "ss_num_reg_images": 0,
        "ss_num_batches_per_epoch": per_epoch,
        "ss_num_epochs": recipe.max_epochs,
        "ss_epoch": epoch,
        "ss_steps": step,
        "ss_max_train_steps": per_epoch * recipe.max_epochs,
        "ss_batch_size_per_device": recipe.batch_size,
        "ss_total_batch_size": recipe.batch_size,
        "ss_resolution": f"({width}, {height})",
        "ss_enable_bucket": False,
        "ss_mixed_precision": recipe.mixed_precision,
        "ss_max_token_length": recipe.max_token_length,
        "ss_clip_skip": None,
        "ss_cache_latents": recipe.cache_latents,
        "ss_shuffle_caption": recipe.shuffle_caption,
        "ss_keep_tokens": recipe.keep_tokens,
        "ss_caption_dropout_rate": recipe.caption_dropout_rate,
        "ss_min_snr_gamma": recipe.min_snr_gamma,
        "ss_resize_interpolation": recipe.resize_interpolation,
        "ss_seed": recipe.seed,
        "ss_sd_model_name": base.name,
        "ss_base_model_version": base.version,
        "ss_v2": base.version == "sd_v2",
        "ss_dataset_dirs": json.dumps(
            {folder: {"n_repeats": recipe.repeat_count, "img_count": len(dataset.images)}}
        ),
        "ss_tag_frequency": json.dumps({folder: dataset.phrase_counts()}),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v2-512/lora"
        if base.version == "sd_v2"
        else "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": recipe.output_name,
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.prediction_type": "v" if base.predicts_velocity else "epsilon",
    }
    return {name: str(fact) for name, fact in facts.items()}
