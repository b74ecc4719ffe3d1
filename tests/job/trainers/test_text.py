"""Captions past 75 tokens, chunk by chunk as sd-scripts does it."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

CAPTION = "pixel art, punk, " + "red hat, blue eyes, " * 12


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    from job.trainers.embedded.base_model import load_base

    return load_base(base)


def encoder(model: Any, length: int) -> Any:
    from job.trainers.embedded.text import CaptionEncoder

    return CaptionEncoder(model.tokenizer, model.text_encoder, length)


@pytest.mark.parametrize(("length", "chunks"), [(75, 1), (150, 2), (225, 3)])
def test_chunks_are_wrapped_and_joined(model: Any, length: int, chunks: int) -> None:
    import torch

    encode = encoder(model, length)
    tokens = encode.tokens([CAPTION, "red hat"])
    assert tokens.shape == (2, chunks, 77)
    assert (tokens[:, :, 0] == model.tokenizer.bos_token_id).all()
    assert (tokens[:, :, -1] == model.tokenizer.eos_token_id).all()
    whole = model.tokenizer(CAPTION, truncation=True, max_length=length + 2).input_ids[1:-1]
    assert tokens[0, :, 1:-1].flatten().tolist()[: len(whole)] == whole

    with torch.no_grad():
        states = encode([CAPTION, "red hat"])
        assert states.shape == (2, length + 2, 32)
        # Chunk by chunk, by hand.
        each = [model.text_encoder(tokens[:, number])[0] for number in range(chunks)]
    by_hand = torch.cat([each[0][:, :1], *(part[:, 1:-1] for part in each), each[-1][:, -1:]], dim=1)
    assert torch.allclose(states, by_hand, atol=1e-5)


def test_a_base_with_its_own_padding_ends_every_chunk(model: Any) -> None:
    """SD 2 pads with another token than EOS: a full chunk ends in EOS, an empty one begins with it."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(model.tokenizer.name_or_path, pad_token="!")
    from job.trainers.embedded.text import CaptionEncoder

    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    assert eos != pad
    long, short = CaptionEncoder(tokenizer, model.text_encoder, 150).tokens([CAPTION, "red hat"])
    assert long[0, -1] == eos
    assert short[0, -1] == pad
    assert short[1, :3].tolist() == [tokenizer.bos_token_id, eos, pad]
