"""Pretrains the tiny base: text encoder and UNet on portraits whose captions are silent on what is taught.

The pictures show every hairstyle and expression, the captions name neither, so the model learns them as
things that vary by themselves. Binding them to words is what is left for the LoRA. Second half of
pretraining, after pretrain_vae.py; pack_base.py then writes `base/`.

    python pretrain.py OUTPUT_DIRECTORY
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from pathlib import Path
from typing import cast

import portraits
import torch
import vocabulary
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from pretrain_vae import pixels
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SEED = 21
STEPS = 2_600
BATCH = 32
LEARNING_RATE = 1e-3
WARMUP_STEPS = 200
EMA_DECAY = 0.998
DRAWN = 30_000
"""Portraits drawn and encoded once; captions are shuffled and thinned anew at every step."""
CAPTION_DROPOUT = 0.1
"""Share of empty captions, which classifier-free guidance needs."""
PHRASE_DROPOUT = 0.1
NOISE_BIAS = 0.6
"""Timesteps are drawn as uniform ** this, towards high noise: only there are words still needed."""
TEXT_WIDTH = 128
SAVE_SECONDS = 300


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text encoder, two layers of width 128."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=vocabulary.MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = CLIPTextModel(config)
    # Words outside the captions keep these first values for ever. At CLIP's usual 0.02 they would end up far
    # smaller than the trained positions added to them, and all look alike.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    return model


def unet(latent_channels: int, latent_size: int) -> UNet2DConditionModel:
    """An untrained UNet with cross-attention in every block."""
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(128,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def scheduler() -> DDIMScheduler:
    """Velocity prediction on a cosine schedule: much weight on high noise, where words decide."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def training_caption(portrait: portraits.Portrait, rng: random.Random) -> str:
    """A caption as pretraining sees it: phrases in any order, some missing, sometimes nothing at all."""
    if rng.random() < CAPTION_DROPOUT:
        return ""
    kept = [phrase for phrase in portraits.phrases(portrait, taught=False) if rng.random() >= PHRASE_DROPOUT]
    rng.shuffle(kept)
    return portraits.join(portrait.sex, kept)


@torch.no_grad()
def encode(vae: AutoencoderKL, drawn: list[portraits.Portrait]) -> torch.Tensor:
    """Scaled latents of portraits, in chunks so that memory stays small."""
    chunks = [
        vae.encode(pixels(drawn[start : start + 500])).latent_dist.mean for start in range(0, len(drawn), 500)
    ]
    return torch.cat(chunks) * float(vae.config.scaling_factor)


def train(output: Path) -> None:
    """Trains, and saves the moving average of the weights every few minutes and at the end."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    tokenizer = vocabulary.save(output / "tokenizer")
    vae = AutoencoderKL.from_pretrained(output / "vae")
    scheduler().save_pretrained(output / "scheduler")
    drawn = [portraits.draw_attributes(rng) for _ in range(DRAWN)]
    latents = encode(vae, drawn)
    model = torch.nn.ModuleDict(
        {"text_encoder": text_encoder(tokenizer), "unet": unet(latents.shape[1], latents.shape[2])}
    )
    average = copy.deepcopy(model).requires_grad_(False)
    # No weight decay: it would shrink the embeddings of words that no caption uses; the LoRA needs them.
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _learning_rate_factor)
    alphas = scheduler().alphas_cumprod
    started = saved = time.monotonic()
    smooth = 0.0
    for step in range(STEPS):
        chosen = [rng.randrange(DRAWN) for _ in range(BATCH)]
        captions = [training_caption(drawn[index], rng) for index in chosen]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        clean = latents[chosen]
        noise = torch.randn_like(clean)
        timesteps = (torch.rand(BATCH) ** NOISE_BIAS * len(alphas)).long().clamp(max=len(alphas) - 1)
        signal = alphas[timesteps].sqrt().view(-1, 1, 1, 1)
        spread = (1 - alphas[timesteps]).sqrt().view(-1, 1, 1, 1)
        words = model["text_encoder"](tokens).last_hidden_state
        predicted = model["unet"](signal * clean + spread * noise, timesteps, words).sample
        loss = (predicted - (signal * noise - spread * clean)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        _follow(average, model, min(EMA_DECAY, (step + 1) / (step + 10)))
        smooth = loss.item() if step == 0 else 0.99 * smooth + 0.01 * loss.item()
        if step % 50 == 0:
            speed = (time.monotonic() - started) / (step + 1)
            print(f"step {step} loss {smooth:.4f} {speed:.3f} s/step", flush=True)
        if time.monotonic() - saved > SAVE_SECONDS:
            saved = time.monotonic()
            save(average, output)
    save(average, output)


def _learning_rate_factor(step: int) -> float:
    return min(1, step / WARMUP_STEPS) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, step / STEPS))))


@torch.no_grad()
def _follow(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def save(average: torch.nn.ModuleDict, output: Path) -> None:
    """Writes both trained parts in the diffusers layout."""
    cast(CLIPTextModel, average["text_encoder"]).save_pretrained(output / "text_encoder")
    cast(UNet2DConditionModel, average["unet"]).save_pretrained(output / "unet")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    train(parser.parse_args().output)
