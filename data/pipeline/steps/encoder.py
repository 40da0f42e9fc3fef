"""Text to the bytes of token shards.

Where the tokenizer is GPT-2's kind (byte-level BPE behind GPT-2's regular expression), a text is cut into words by that
expression and each word's tokens are looked up; only a word not met before goes through the tokenizer. Words are never
merged across, so the tokens are the same; the tests compare every character of the ranges below. Any other tokenizer,
and any text with characters outside those ranges, goes through `encode_batch_fast`.
"""

from __future__ import annotations

import json
import re
import struct
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.tokenizer import load_tokenizer, token_bytes, vocab_size

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Latin, Greek, Cyrillic, punctuation, symbols. Scripts without spaces have too many different words to remember, and
# characters that Unicode added lately are letters to one library and not to another.
FAST_RANGES = ((0x0000, 0x052F), (0x1E00, 0x1FFF), (0x2000, 0x2BFF), (0xFE00, 0xFE0F))
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_MOST_WORDS_REMEMBERED = 1 << 19
_LONGEST_WORD_REMEMBERED = 64


def _characters(categories: str) -> str:
    """The characters of the fast ranges in these Unicode categories, as the inside of a [] of a regular expression."""
    found = [
        code
        for first, last in FAST_RANGES
        for code in range(first, last + 1)
        if unicodedata.category(chr(code))[0] in categories
    ]
    ranges: list[tuple[int, int]] = []
    for code in found:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    return "".join(rf"\u{first:04x}-\u{last:04x}" for first, last in ranges)


_LETTER, _NUMBER = _characters("L"), _characters("N")
# GPT-2's, with the frequent alternatives first: no text matches two of them at one place, save the last two.
_words = re.compile(
    rf" ?[{_LETTER}]+| ?[{_NUMBER}]+|'(?:[stmd]|re|ve|ll)| ?[^{_SPACE}{_LETTER}{_NUMBER}]+"
    rf"|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+"
).findall
_is_fast = re.compile("[" + "".join(rf"\u{first:04x}-\u{last:04x}" for first, last in FAST_RANGES) + "]*").fullmatch


class Encoder:
    """Encodes batches of texts, each to its tokens as little-endian bytes, without an end token."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = load_tokenizer(path)
        self.vocab_size = vocab_size(self.tokenizer)
        self.token_bytes = token_bytes(self.vocab_size)
        self._letter = {2: "H", 4: "I"}[self.token_bytes]
        self._remembers_words = _is_gpt2_kind(self.tokenizer)
        self._tokens_of: dict[str, bytes] = {}

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The tokens of each text."""
        if not self._remembers_words:
            return self._encode_whole(texts)
        fast = [text.isascii() or _is_fast(text) is not None for text in texts]
        words_of = [_words(text) if ok else [] for text, ok in zip(texts, fast, strict=True)]
        forget = self._learn(set[str]().union(*words_of))
        lookup = self._tokens_of.__getitem__
        slow = iter(self._encode_whole([text for text, ok in zip(texts, fast, strict=True) if not ok]))
        encoded = [b"".join(map(lookup, words)) if ok else next(slow) for words, ok in zip(words_of, fast, strict=True)]
        for word in forget:
            del self._tokens_of[word]
        return encoded

    def pack(self, ids: Sequence[int]) -> bytes:
        """Token ids as they stand in a shard."""
        return struct.pack(f"<{len(ids)}{self._letter}", *ids)

    def _learn(self, words: set[str]) -> list[str]:
        """Look up the words not met before; returns those too long to be worth remembering after this batch."""
        missing = list(words.difference(self._tokens_of))
        if len(self._tokens_of) + len(missing) > _MOST_WORDS_REMEMBERED:
            self._tokens_of = {word: self._tokens_of[word] for word in words.intersection(self._tokens_of)}
        self._tokens_of.update(zip(missing, self._encode_whole(missing), strict=True))
        return [word for word in missing if len(word) > _LONGEST_WORD_REMEMBERED]

    def _encode_whole(self, texts: Sequence[str]) -> list[bytes]:
        if not texts:
            return []
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self.pack(encoding.ids) for encoding in encodings]


def _is_gpt2_kind(tokenizer: Tokenizer) -> bool:
    """Whether a text's tokens are those of its words, by GPT-2's expression, one after the other."""
    parts = json.loads(tokenizer.to_str())
    cutter, model = parts["pre_tokenizer"] or {}, parts["model"]
    return (
        parts["normalizer"] is None
        and cutter.get("type") == "ByteLevel"
        and cutter.get("add_prefix_space") is False
        and cutter.get("use_regex") is True
        and model["type"] == "BPE"
        and not model.get("dropout")
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and all(token["special"] for token in parts["added_tokens"])
    )
