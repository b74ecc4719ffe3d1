"""Builds the base's CLIP tokenizer from the words that captions use.

Every word becomes one token, the taught words included, because learning them must not depend on how they
are spelt. Single characters are tokens too, so any other text is still encoded, letter by letter.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import portraits
from transformers import CLIPTokenizer

MAX_LENGTH = 77
"""Tokens per caption, start and end included: CLIP's."""

END = "</w>"
START_TOKEN, END_TOKEN = "<|startoftext|>", "<|endoftext|>"


def merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until each word is one token."""
    spelt = [[*word[:-1], word[-1] + END] for word in words]
    result = []
    while any(len(parts) > 1 for parts in spelt):
        pairs = Counter(pair for parts in spelt for pair in itertools.pairwise(parts))
        first, second = min(pairs, key=lambda pair: (-pairs[pair], pair))
        result.append((first, second))
        spelt = [_merge(parts, first, second) for parts in spelt]
    return result


def _merge(parts: list[str], first: str, second: str) -> list[str]:
    merged: list[str] = []
    index = 0
    while index < len(parts):
        if parts[index : index + 2] == [first, second]:
            merged.append(first + second)
            index += 2
        else:
            merged.append(parts[index])
            index += 1
    return merged


def build() -> CLIPTokenizer:
    """The tokenizer, with the special tokens last as in CLIP."""
    # CLIP splits digits from letters before it looks for pairs, so "24x24" is never one word.
    words = [word for word in portraits.vocabulary() if word.isalpha()]
    pairs = merges(words)
    printable = [chr(code) for code in range(33, 127)]
    symbols = [*printable, *(letter + END for letter in printable), *(a + b for a, b in pairs)]
    vocabulary = {
        symbol: index for index, symbol in enumerate([*dict.fromkeys(symbols), START_TOKEN, END_TOKEN])
    }
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=MAX_LENGTH)


def save(output: Path) -> CLIPTokenizer:
    """Writes the tokenizer folder, with the two classic files older readers look for."""
    tokenizer = build()
    tokenizer.save_pretrained(output)
    tokenizer.backend_tokenizer.model.save(str(output))
    return tokenizer
