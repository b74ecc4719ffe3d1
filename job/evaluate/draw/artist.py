"""Draws the prompts of a plan: the same prompt and seed give the same image for every LoRA.

The first noise of an image comes from its own seed alone. Batches are cut from the whole plan, and a batch
that misses an image is drawn whole, so that a resumed drawing gives the images of an uninterrupted one.
"""

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from job.contract.manifest import SamplePrompt
from job.contract.reasons import Reason
from job.evaluate.draw.merging import LoraSlot
from job.evaluate.drawing import Canvas, Drawn, DrawTask, EpochDrawn
from job.trainers.embedded.base_model import load_base
from job.trainers.embedded.errors import TrainingError
from job.trainers.embedded.files import write_file
from job.trainers.embedded.text import CaptionEncoder


def draw(task: DrawTask, report: Callable[[Drawn | EpochDrawn], None]) -> None:
    """Draw every canvas of `task` in order. Raises TrainingError when it cannot."""
    artist = _Artist(task)
    for canvas in task.canvases:
        started = time.monotonic()
        canvas.out.mkdir(parents=True, exist_ok=True)
        for name in artist.fill(canvas):
            report(Drawn(canvas.epoch, name))
        report(EpochDrawn(canvas.epoch, len(task.plan.prompts), round(time.monotonic() - started, 3)))


class _Artist:
    def __init__(self, task: DrawTask) -> None:
        self._plan, self._size = task.plan, task.recipe.resolution
        self._base = load_base(task.base_model)
        self._base.check_resolution(task.recipe.resolution)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        half = self._device == "cuda" and task.recipe.mixed_precision != "no"
        self._dtype = torch.float16 if half else torch.float32
        for model in (self._base.unet, self._base.text_encoder, self._base.vae):
            model.to(self._device)
            if half:
                model.to(self._dtype)
        self._slot = LoraSlot(self._base.unet, self._base.text_encoder)
        self._captions = CaptionEncoder(
            self._base.tokenizer, self._base.text_encoder, task.recipe.max_token_length
        )

    def fill(self, canvas: Canvas) -> Iterator[str]:
        """Draw what `canvas` misses; yield the name of each image when it is written."""
        size, prompts = self._plan.batch_size, self._plan.prompts
        worn = False
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            missing = {prompt.name for prompt in batch if not _is_whole(_path(canvas, prompt), self._size)}
            if not missing:
                continue
            if not worn:
                self._slot.wear(canvas.lora)
                worn = True
            for prompt, image in zip(batch, self._draw(batch), strict=True):
                if prompt.name in missing:
                    write_file(_path(canvas, prompt), _png(image))
                    yield prompt.name

    @torch.no_grad()
    def _draw(self, prompts: Sequence[SamplePrompt]) -> list[Image.Image]:
        """Sample with classifier-free guidance and decode to images."""
        unet, scale = self._base.unet, self._plan.guidance_scale
        states = self._captions([prompt.prompt for prompt in prompts])
        if scale != 1:
            states = torch.cat((self._captions([""]).expand_as(states), states))
        solver = _solver(self._base.sampling)
        solver.set_timesteps(self._plan.inference_steps, device=self._device)
        latents = self._first_noise(prompts) * solver.init_noise_sigma
        for timestep in solver.timesteps:
            doubled = latents if scale == 1 else torch.cat((latents, latents))
            seen = solver.scale_model_input(doubled, timestep).to(self._dtype)
            guess = unet(seen, timestep, states, return_dict=False)[0].float()
            if scale != 1:
                without, asked = guess.chunk(2)
                guess = without + scale * (asked - without)
            latents = solver.step(guess, timestep, latents, return_dict=False)[0]
        vae = self._base.vae
        return _images(vae.decode((latents / vae.config.scaling_factor).to(self._dtype)).sample)

    def _first_noise(self, prompts: Sequence[SamplePrompt]) -> Tensor:
        """Return the latents an image starts from; drawn on the CPU: a seed means the same everywhere."""
        width, height = (side // self._base.shrinkage for side in self._size)
        shape = (1, self._base.unet.config.in_channels, height, width)
        chances = (torch.Generator().manual_seed(prompt.seed) for prompt in prompts)
        return torch.cat([torch.randn(shape, generator=chance) for chance in chances]).to(self._device)


def _solver(configuration: Mapping[str, Any]) -> Any:
    """Return DDIM for a base that comes with it, else DPM-Solver++ (2M), which needs fewer steps.

    On the cosine schedule of small bases DPM-Solver's second order is unstable at the first steps.
    """
    own = configuration["_class_name"] == "DDIMScheduler"
    return (DDIMScheduler if own else DPMSolverMultistepScheduler).from_config(dict(configuration))


def _images(decoded: Tensor) -> list[Image.Image]:
    if not bool(decoded.isfinite().all()):
        raise TrainingError(Reason.NAN_LOSS, "the images are not finite: base and LoRA do not work together")
    pixels = ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _path(canvas: Canvas, prompt: SamplePrompt) -> Path:
    return canvas.out / f"{prompt.name}.png"


def _is_whole(path: Path, size: tuple[int, int]) -> bool:
    """Whether a complete image of this size lies there."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.size == size
    except (OSError, UnidentifiedImageError):
        return False
