"""The encoder: texts become the bytes of token shards.

For a tokenizer in GPT-2's style (byte-level BPE behind GPT-2's regular expression), a text is split into words by that
expression and each word's tokens are looked up in a cache, so only new words go through the tokenizer. BPE never merges
across words, so the tokens are the same; the tests compare every character of the ranges below. Any other tokenizer,
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

from data.tokenizer import end_of_text_id, load_tokenizer, text_tokenizer, token_bytes, vocab_size
from settings import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Latin, Greek, Cyrillic, punctuation, symbols. Scripts without spaces have too many different words to cache, and
# characters that Unicode added lately are letters to one library and not to another.
FAST_RANGES = ((0x0000, 0x052F), (0x1E00, 0x1FFF), (0x2000, 0x2BFF), (0xFE00, 0xFE0F))
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_MAX_CACHED_WORDS = 1 << 19
_MAX_CACHED_WORD_LENGTH = 64


def _characters(categories: str) -> str:
    """Return the characters of the fast ranges in these Unicode categories, for use inside [] of an expression."""
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
# GPT-2's expression with the frequent alternatives first: only the last two can match at the same place.
_words = re.compile(
    rf" ?[{_LETTER}]+| ?[{_NUMBER}]+|'(?:[stmd]|re|ve|ll)| ?[^{_SPACE}{_LETTER}{_NUMBER}]+"
    rf"|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+"
).findall
_is_fast = re.compile("[" + "".join(rf"\u{first:04x}-\u{last:04x}" for first, last in FAST_RANGES) + "]*").fullmatch


class Encoder:
    """Encodes batches of texts, each to its tokens as little-endian bytes without an end token.

    `end_of_text` names the end token; empty means the tokenizer's usual one. Its id, `end_id`, never occurs in a text.
    """

    def __init__(self, path: Path, end_of_text: str = "") -> None:
        self.tokenizer = load_tokenizer(path)
        self.end_id = end_of_text_id(self.tokenizer, end_of_text, path)
        self._text_tokenizer = text_tokenizer(self.tokenizer, self.end_id)
        self.vocab_size = vocab_size(self.tokenizer)
        self.token_bytes = token_bytes(self.vocab_size)
        self._letter = {2: "H", 4: "I"}[self.token_bytes]
        self._caches_words = _is_gpt2_style(self.tokenizer)
        self._cache: dict[str, bytes] = {}

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Return the tokens of each text. Raises UserError if one of them is the end token."""
        if not self._caches_words:
            return self._encode_uncached(texts)
        fast = [text.isascii() or _is_fast(text) is not None for text in texts]
        words_of = [_words(text) if ok else [] for text, ok in zip(texts, fast, strict=True)]
        too_long = self._fill_cache(set[str]().union(*words_of))
        lookup = self._cache.__getitem__
        slow = iter(self._encode_uncached([text for text, ok in zip(texts, fast, strict=True) if not ok]))
        encoded = [b"".join(map(lookup, words)) if ok else next(slow) for words, ok in zip(words_of, fast, strict=True)]
        for word in too_long:
            del self._cache[word]
        return encoded

    def pack(self, ids: Sequence[int]) -> bytes:
        """Convert token ids to the bytes of a shard."""
        return struct.pack(f"<{len(ids)}{self._letter}", *ids)

    def _fill_cache(self, words: set[str]) -> list[str]:
        """Cache the tokens of new words, and return those words that are too long to stay after this batch."""
        missing = list(words.difference(self._cache))
        if len(self._cache) + len(missing) > _MAX_CACHED_WORDS:
            self._cache = {word: self._cache[word] for word in words.intersection(self._cache)}
        self._cache.update(zip(missing, self._encode_uncached(missing), strict=True))
        return [word for word in missing if len(word) > _MAX_CACHED_WORD_LENGTH]

    def _encode_uncached(self, texts: Sequence[str]) -> list[bytes]:
        if not texts:
            return []
        encodings = self._text_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ids_of = [encoding.ids for encoding in encodings]
        for text, ids in zip(texts, ids_of, strict=True):
            if self.end_id in ids:
                raise UserError(self._end_within(text))
        return [self.pack(ids) for ids in ids_of]

    def _end_within(self, text: str) -> str:
        """Return the message for a text that holds the end token, as it does if that is also the unknown token."""
        name = self.tokenizer.id_to_token(self.end_id)
        found = self._text_tokenizer.encode(text, add_special_tokens=False)
        begin, end = found.offsets[found.ids.index(self.end_id)]
        return (
            f'tokenizer.end_of_text = "{name}": the tokenizer gives this token for {text[begin:end][:40]!r} within a '
            "document, which it would end there; name another token"
        )


def _is_gpt2_style(tokenizer: Tokenizer) -> bool:
    """Return whether a text's tokens are those of its words, by GPT-2's expression, one after the other."""
    parts = json.loads(tokenizer.to_str())
    pre_tokenizer, model = parts["pre_tokenizer"] or {}, parts["model"]
    return (
        parts["normalizer"] is None
        and pre_tokenizer.get("type") == "ByteLevel"
        and pre_tokenizer.get("add_prefix_space") is False
        and pre_tokenizer.get("use_regex") is True
        and model["type"] == "BPE"
        and not model.get("dropout")
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and all(token["special"] for token in parts["added_tokens"])
    )
