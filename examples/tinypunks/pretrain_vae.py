"""Trains the tiny base's autoencoder: 24x24 pixels to a 6x6 grid of 16 channels and back.

First half of pretraining; pretrain.py runs the second and needs this one finished.

    python pretrain_vae.py OUTPUT_DIRECTORY
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import numpy as np
import portraits
import torch
from diffusers import AutoencoderKL

SEED = 20
STEPS = 2500
BATCH = 32
LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-4
DRAWN = 12_000


def build() -> AutoencoderKL:
    """An untrained autoencoder of the shape the base uses."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=portraits.GRID,
        mid_block_add_attention=False,
    )


def pixels(drawn: list[portraits.Portrait]) -> torch.Tensor:
    """Portraits as the network sees them: N x 3 x 24 x 24 in [-1, 1]."""
    stacked = np.stack([portraits.paint(one) for one in drawn])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(output: Path) -> None:
    """Trains, sets the latent scale from the data, saves in the diffusers layout."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    images = pixels([portraits.draw_attributes(rng) for _ in range(DRAWN)])
    vae = build()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, step / 50) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
    )
    started = time.monotonic()
    for step in range(STEPS):
        batch = images[torch.randint(DRAWN, (BATCH,))]
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            error = vae.decode(posterior.sample()).sample.float() - batch
        loss = (
            error.abs().mean()
            + error.square().mean()
            + KL_WEIGHT * posterior.kl().float().mean() / portraits.GRID**2
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            speed = (time.monotonic() - started) / (step + 1)
            mae = error.abs().mean().item()
            print(f"vae step {step} loss {loss.item():.4f} mae {mae:.4f} {speed:.3f} s/step", flush=True)
    with torch.no_grad():
        latents = vae.encode(images[:2000]).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    vae.save_pretrained(output / "vae")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    train(parser.parse_args().output)
