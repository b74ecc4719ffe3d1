"""Loads the base model: a diffusers folder, or a single file in SD 1.5's format. Never asks the network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer

from job.contract.reasons import Reason
from job.trainers.embedded.errors import TrainingError

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)
"""What diffusers and transformers raise for folders that are not what they should be."""


@dataclass(frozen=True)
class BaseModel:
    """The parts of a Stable Diffusion 1.x or 2.x model, in fp32 on the CPU, frozen."""

    name: str
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    noise: Any
    """A DDPMScheduler with the base's own noise schedule and prediction type."""
    sampling: dict[str, Any]
    """The base's own scheduler configuration, for drawing."""

    @property
    def predicts_velocity(self) -> bool:
        """Whether the U-Net predicts v rather than the noise."""
        return bool(self.noise.config.prediction_type == "v_prediction")

    @property
    def version(self) -> str:
        """What sd-scripts calls this architecture, told by the width of its text states."""
        return {768: "sd_v1", 1024: "sd_v2"}.get(self.unet.config.cross_attention_dim, "custom")

    @property
    def shrinkage(self) -> int:
        """Pixels of an image per pixel of its latents, along each side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def check_resolution(self, resolution: tuple[int, int]) -> None:
        """Raise TrainingError(BAD_RECIPE) when the VAE cannot encode images of this size."""
        if any(side % self.shrinkage for side in resolution):
            raise TrainingError(
                Reason.BAD_RECIPE,
                f"resolution {resolution} is no multiple of {self.shrinkage}, as {self.name} needs",
            )


def load_base(path: Path) -> BaseModel:
    """Load a base model. Raises TrainingError(BAD_BASE_MODEL) naming the file or folder."""
    try:
        base = _from_folder(path) if path.is_dir() else _from_file(path)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except _UNREADABLE as error:
        first = (str(error).splitlines() or [""])[0][:300]
        raise _refused(f"{path.name} cannot be loaded as a Stable Diffusion model: {first}") from error
    if base.noise.config.prediction_type not in ("epsilon", "v_prediction"):
        raise _refused(f"{path.name} predicts {base.noise.config.prediction_type}, which is not supported")
    for model in (base.unet, base.vae, base.text_encoder):
        model.requires_grad_(False).eval()
    return base


def _from_folder(path: Path) -> BaseModel:
    if (path / "text_encoder_2").exists():
        raise _refused(f"{path.name} is an SDXL model; this trainer knows SD 1.x and 2.x")
    local: dict[str, Any] = {"local_files_only": True}
    sampling = DDPMScheduler.load_config(path, subfolder="scheduler", **local)
    return BaseModel(
        name=path.name,
        unet=UNet2DConditionModel.from_pretrained(path, subfolder="unet", torch_dtype=torch.float32, **local),
        vae=AutoencoderKL.from_pretrained(path, subfolder="vae", torch_dtype=torch.float32, **local),
        text_encoder=CLIPTextModel.from_pretrained(
            path, subfolder="text_encoder", dtype=torch.float32, **local
        ),
        tokenizer=CLIPTokenizer.from_pretrained(path, subfolder="tokenizer", **local),
        noise=DDPMScheduler.from_config(sampling),
        sampling=sampling,
    )


def _from_file(path: Path) -> BaseModel:
    from diffusers import StableDiffusionPipeline

    configuration = _configuration(path)
    if configuration is None:
        raise _refused(
            f"{path.name} is a single file, and the configuration of {SD15} is neither beside it "
            f"(folder {path.stem}/ with model_index.json) nor in the local Hugging Face cache"
        )
    pipe = StableDiffusionPipeline.from_single_file(
        path,
        config=str(configuration),
        local_files_only=True,
        torch_dtype=torch.float32,
        safety_checker=None,
        feature_extractor=None,
    )
    # Read anew: the pipeline alters settings that it holds for outdated.
    sampling = DDPMScheduler.load_config(configuration, subfolder="scheduler", local_files_only=True)
    return BaseModel(
        name=path.name,
        unet=pipe.unet,
        vae=pipe.vae,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        noise=DDPMScheduler.from_config(sampling),
        sampling=sampling,
    )


def _configuration(path: Path) -> Path | None:
    """Find the diffusers configuration of a single-file model on this machine."""
    from huggingface_hub import snapshot_download

    for folder in (path.with_suffix(""), path.parent):
        if (folder / "model_index.json").is_file():
            return folder
    try:
        return Path(snapshot_download(SD15, local_files_only=True))
    except (OSError, ValueError):
        return None


def _refused(message: str) -> TrainingError:
    return TrainingError(Reason.BAD_BASE_MODEL, message)
