"""The training itself: base, dataset and recipe in, reports and checkpoints out.

Follows sd-scripts' `train_network.py`. All chance comes from (seed, step), drawn on the CPU, so that it is
the same on every device and after every resume.
"""

import contextlib
import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from job.contract.reasons import Reason
from job.trainers.base import Remark, Report, Saved, Started, StateSaved, Stepped, TrainingTask
from job.trainers.embedded.base_model import BaseModel, load_base
from job.trainers.embedded.checkpoint import DTYPES, describe, encode_checkpoint
from job.trainers.embedded.dataset import Dataset
from job.trainers.embedded.errors import TrainingError
from job.trainers.embedded.files import write_file
from job.trainers.embedded.lora import LoraNetwork, read_lora
from job.trainers.embedded.objective import Objective
from job.trainers.embedded.order import (
    derived_seed,
    epoch_batches,
    rate_factor,
    step_captions,
)
from job.trainers.embedded.state import load_state, save_state
from job.trainers.embedded.text import CaptionEncoder

MAX_GRAD_NORM = 1.0
"""sd-scripts' default for --max_grad_norm."""
WEIGHT_DECAY = 0.01
"""torch's and bitsandbytes' default for AdamW, which sd-scripts leaves alone."""


def train(task: TrainingTask, dataset: Dataset, report: Callable[[Report], None]) -> None:
    """Train `task` on its dataset to its last epoch. Raises TrainingError when it cannot."""
    base = load_base(task.base_model)
    base.check_resolution(task.recipe.resolution)
    _Training(task, dataset, base, report).run()


class _Training:
    def __init__(
        self, task: TrainingTask, dataset: Dataset, base: BaseModel, report: Callable[[Report], None]
    ) -> None:
        recipe = task.recipe
        if not recipe.learning_rate and not recipe.text_lr:
            raise TrainingError(Reason.BAD_RECIPE, "learning_rate and text_lr are both 0")
        self._task, self._recipe, self._dataset, self._base, self._report = (
            task,
            recipe,
            dataset,
            base,
            report,
        )
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._per_epoch = recipe.steps_per_epoch(len(dataset.images))
        self._total = self._per_epoch * recipe.max_epochs
        self._dtype = self._precision()
        self._scaler = torch.amp.GradScaler(self._device, enabled=self._dtype is torch.float16)
        self._network = self._place()
        self._captions = CaptionEncoder(base.tokenizer, base.text_encoder, recipe.max_token_length)
        self._encoded: dict[str, Tensor] = {}
        self._trained = self._trained_parts()
        self._optimizer = self._make_optimizer()
        self._objective = Objective(base.noise, recipe.min_snr_gamma)
        self._latents = self._all_latents() if recipe.cache_latents else None

    def run(self) -> None:
        first_epoch, step = self._start()
        self._report(Started(self._total, self._per_epoch, self._recipe.max_epochs, step))
        state_written = time.monotonic()
        for epoch in range(first_epoch, self._recipe.max_epochs + 1):
            for batch in epoch_batches(len(self._dataset.images), self._recipe, epoch):
                step += 1
                loss = self._step(step, batch)
                if not math.isfinite(loss):
                    raise TrainingError(Reason.NAN_LOSS, f"the loss became {loss} at step {step}")
                self._report(Stepped(step, epoch, loss))
            saves = epoch in self._recipe.saved_epochs
            if saves:
                self._save(epoch, step)
            if saves or time.monotonic() - state_written >= self._task.state_every_seconds:
                self._save_state(epoch, step)
                state_written = time.monotonic()

    # Before the first step

    def _precision(self) -> torch.dtype:
        wanted = self._recipe.mixed_precision
        if self._device == "cpu" and wanted != "no":
            self._report(Remark(f"mixed_precision {wanted} needs a GPU: this CPU trains in fp32"))
            return torch.float32
        return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[wanted]

    def _place(self) -> LoraNetwork:
        """Attach the LoRA and move everything to the device; the frozen base takes the mixed precision."""
        recipe, base = self._recipe, self._base
        torch.manual_seed(derived_seed(recipe.seed, "lora"))
        network = LoraNetwork(
            base.unet,
            base.text_encoder,
            rank=recipe.lora_dim,
            alpha=recipe.lora_alpha,
            dropout=recipe.network_dropout,
        )
        base.vae.to(self._device)  # in fp32: some VAEs overflow in fp16
        for model in (base.unet, base.text_encoder):
            model.to(self._device)
            if self._dtype is not torch.float32:
                model.to(self._dtype)
            if recipe.gradient_checkpointing == "on":
                model.train()  # both libraries recompute in training mode only
        if recipe.gradient_checkpointing == "on":
            base.unet.enable_gradient_checkpointing()
            base.text_encoder.gradient_checkpointing_enable({"use_reentrant": False})
        for group in (network.unet, network.text_encoder):
            group.to(self._device).train()
        return network

    def _trained_parts(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """Return (parameters, rate) of what has a rate; the rest stays as it is."""
        parts = []
        for group, rate in (
            (self._network.text_encoder, self._recipe.text_lr),
            (self._network.unet, self._recipe.learning_rate),
        ):
            if rate:
                parts.append((list(group.parameters()), rate))
            else:
                group.requires_grad_(False).eval()
        return parts

    def _make_optimizer(self) -> torch.optim.Optimizer:
        groups = [{"params": parameters, "lr": rate} for parameters, rate in self._trained]
        if self._recipe.optimizer == "AdamW8bit":
            if self._device == "cuda" and importlib.util.find_spec("bitsandbytes"):
                eight_bit: Any = importlib.import_module("bitsandbytes").optim.AdamW8bit
                made: torch.optim.Optimizer = eight_bit(groups, weight_decay=WEIGHT_DECAY)
                return made
            self._report(Remark("AdamW8bit needs a GPU and bitsandbytes: AdamW is used"))
        return torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY, fused=True)

    def _all_latents(self) -> Tensor:
        """Encode every image once, then free the VAE's memory."""
        generator = torch.Generator().manual_seed(derived_seed(self._recipe.seed, "latents"))
        images, size = len(self._dataset.images), self._recipe.batch_size
        numbers = (range(start, min(start + size, images)) for start in range(0, images, size))
        found = [self._encode(batch, generator) for batch in numbers]
        self._base.vae.to("meta")
        return torch.cat(found)

    @torch.no_grad()
    def _encode(self, numbers: Sequence[int], generator: torch.Generator) -> Tensor:
        vae = self._base.vae
        pixels = torch.stack([torch.from_numpy(self._dataset.pixels(number)) for number in numbers])
        spread = vae.encode(pixels.to(self._device)).latent_dist
        noise = torch.randn(spread.mean.shape, generator=generator).to(self._device)
        latents: Tensor = (spread.mean + spread.std * noise) * vae.config.scaling_factor
        return latents

    def _start(self) -> tuple[int, int]:
        """Load what training starts from; return (first epoch, steps done)."""
        task = self._task
        if task.resume is not None:
            weights, optimizer = load_state(
                task.resume, recipe=self._recipe, images=len(self._dataset.images), device=self._device
            )
            for name, layer in self._network.layers():
                with torch.no_grad():
                    layer.down.weight.copy_(weights[f"{name}.lora_down.weight"])
                    layer.up.weight.copy_(weights[f"{name}.lora_up.weight"])
            self._optimizer.load_state_dict(optimizer["optimizer"])
            self._scaler.load_state_dict(optimizer["scaler"])
            return task.resume.epoch + 1, task.resume.step
        if task.init_weights is not None:
            for remark in self._network.load(read_lora(task.init_weights), task.init_weights.name):
                self._report(Remark(remark))
        return 1, 0

    # Steps

    def _step(self, step: int, batch: tuple[int, ...]) -> float:
        """Make one optimizer step and return its loss."""
        recipe = self._recipe
        torch.manual_seed(derived_seed(recipe.seed, "dropout", step))
        chance = torch.Generator().manual_seed(derived_seed(recipe.seed, "noise", step))
        for group, (_, rate) in zip(self._optimizer.param_groups, self._trained, strict=True):
            group["lr"] = rate * rate_factor(recipe, step - 1, self._total)

        latents = self._encode(batch, chance) if self._latents is None else self._latents[list(batch)]
        question = self._objective.ask(latents, chance)
        captions = step_captions([self._dataset.captions[number] for number in batch], recipe, step)
        mixed = self._dtype is not torch.float32
        with torch.autocast(self._device, self._dtype) if mixed else contextlib.nullcontext():
            states = self._states(captions)
            answer = self._base.unet(question.noisy, question.timesteps, states, return_dict=False)[0]
        loss = self._objective.loss(answer, question)

        self._optimizer.zero_grad()
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_([p for group, _ in self._trained for p in group], MAX_GRAD_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.item()

    def _states(self, captions: list[str]) -> Tensor:
        """Return the captions' text states; remembered where neither weights nor captions change."""
        if self._recipe.text_lr or self._recipe.shuffle_caption:
            return self._captions(captions)
        for caption in captions:
            if caption not in self._encoded:
                self._encoded[caption] = self._captions([caption])
        return torch.cat([self._encoded[caption] for caption in captions])

    # Files

    def _save(self, epoch: int, step: int) -> None:
        recipe = self._recipe
        tensors = self._network.tensors(DTYPES[recipe.save_precision])
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise TrainingError(Reason.NAN_LOSS, f"the weights are not finite after epoch {epoch}")
        path = self._task.output_dir / recipe.checkpoint_name(epoch)
        metadata = describe(recipe, self._dataset, self._base, epoch=epoch, step=step)
        write_file(path, encode_checkpoint(tensors, metadata))
        self._report(Saved(path, epoch, step))

    def _save_state(self, epoch: int, step: int) -> None:
        path = save_state(
            self._task.output_dir,
            recipe=self._recipe,
            epoch=epoch,
            step=step,
            images=len(self._dataset.images),
            weights=self._network.tensors(torch.float32),
            optimizer={"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()},
        )
        self._report(StateSaved(path, epoch, step))
