"""Captions to text-encoder states, past CLIP's 75 tokens as sd-scripts does it (`library/strategy_sd.py`).

A caption is padded to `max_token_length`, cut into chunks of a window's content, each chunk wrapped in
BOS and EOS and encoded by itself; the states are joined again with the first BOS and the last EOS.
"""

from typing import Any

import torch
from torch import Tensor


class CaptionEncoder:
    """Encodes captions with a CLIP text encoder's last hidden state (no clip skip)."""

    def __init__(self, tokenizer: Any, model: Any, max_token_length: int) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._window = int(model.config.max_position_embeddings)
        self._chunks = max_token_length // 75

    def tokens(self, captions: list[str]) -> Tensor:
        """Return token ids, captions × chunks × window."""
        content = self._window - 2
        ids: Tensor = self._tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=self._chunks * content + 2,
            return_tensors="pt",
        ).input_ids
        body = ids[:, 1:-1].reshape(len(captions), self._chunks, content)
        first = ids[:, :1, None].expand(-1, self._chunks, 1)
        last = ids[:, -1:, None].expand(-1, self._chunks, 1)
        chunks = torch.cat((first, body, last), dim=2)
        eos, pad = self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        if pad != eos and self._chunks > 1:
            # SD 2 pads with another token than EOS: every chunk still gets an EOS of its own.
            full = (chunks[:, :, -2] != eos) & (chunks[:, :, -2] != pad)
            chunks[:, :, -1] = chunks[:, :, -1].masked_fill(full, eos)
            chunks[:, :, 1] = chunks[:, :, 1].masked_fill(chunks[:, :, 1] == pad, eos)
        return chunks

    def __call__(self, captions: list[str]) -> Tensor:
        """Return states, captions × (chunks × content + 2) × width."""
        chunks = self.tokens(captions)
        # Most chunks of short captions are the same padding: each distinct one is encoded once.
        distinct, where = torch.unique(chunks.reshape(-1, self._window), dim=0, return_inverse=True)
        device = self._model.device
        states: Tensor = self._model(distinct.to(device))[0].index_select(0, where.to(device))
        if self._chunks == 1:
            return states
        states = states.reshape(len(captions), self._chunks, self._window, -1)
        body = states[:, :, 1:-1].flatten(1, 2)
        return torch.cat((states[:, 0, :1], body, states[:, -1, -1:]), dim=1)
