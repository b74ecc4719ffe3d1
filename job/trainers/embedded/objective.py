"""What the U-Net is asked in a step and how its answer is judged, as in sd-scripts' `train_network.py`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Question:
    """Noisy latents of a batch and what should be answered; all on the latents' device."""

    noisy: Tensor
    timesteps: Tensor
    target: Tensor


class Objective:
    """Denoising with the base's own noise schedule: predict the noise, or v where the base does."""

    def __init__(self, schedule: Any, min_snr_gamma: float | None) -> None:
        self._schedule = schedule
        self._velocity: bool = schedule.config.prediction_type == "v_prediction"
        self._gamma = min_snr_gamma
        self._snr: Tensor = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)

    def ask(self, latents: Tensor, chance: torch.Generator) -> Question:
        """Draw noise and timesteps with the CPU generator `chance`: the same on every device."""
        noise = torch.randn(latents.shape, generator=chance).to(latents.device)
        steps = self._schedule.config.num_train_timesteps
        timesteps = torch.randint(0, steps, (len(latents),), generator=chance).to(latents.device)
        noisy = self._schedule.add_noise(latents, noise, timesteps)
        target = self._schedule.get_velocity(latents, noise, timesteps) if self._velocity else noise
        return Question(noisy, timesteps, target)

    def loss(self, answer: Tensor, question: Question) -> Tensor:
        """Return the mean squared error over the batch, weighted by Min-SNR where a gamma is given."""
        squares = functional.mse_loss(answer.float(), question.target.float(), reduction="none")
        losses = squares.flatten(1).mean(1)
        if self._gamma is None:
            return losses.mean()
        snr = self._snr.to(losses.device)[question.timesteps]
        weights = snr.clamp(max=self._gamma) / (snr + 1 if self._velocity else snr)
        return (losses * weights).mean()
