"""The tokenizer of a build: a local tokenizer.json, or a byte-level BPE trained on the documents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from settings import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DEFAULT_END_OF_TEXT = "<|endoftext|>"
_KNOWN_ENDS = (DEFAULT_END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
_TWO_BYTES = 1 << 16


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer that encodes plain text as it is: nothing added, cut off or padded, and no text is a special token.

    Without encode_special_tokens, a document that quotes "<|endoftext|>" would hold a real end of text.
    Raises UserError where the file is missing or is no tokenizer.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise UserError(f"tokenizer.path = {path} does not exist; give a tokenizer.json, or leave it out to train one")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"tokenizer.path = {path} is not a tokenizer.json: {error}") from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def end_of_text_id(tokenizer: Tokenizer, name: str, path: Path) -> int:
    """The id of the token after each document: `name`, or where that is empty, the first of the usual names it has.

    Raises UserError where there is none.
    """
    for candidate in (name,) if name else _KNOWN_ENDS:
        token_id = tokenizer.token_to_id(candidate)
        if token_id is not None:
            return int(token_id)
    if name:
        raise UserError(f'tokenizer.end_of_text = "{name}" is not in the vocabulary of {path}; name one of its tokens')
    raise UserError(
        f"tokenizer.end_of_text: {path} has none of {', '.join(_KNOWN_ENDS)}; name the token that ends a document"
    )


def vocab_size(tokenizer: Tokenizer) -> int:
    """One more than the largest id: what an embedding needs, even where ids have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def token_bytes(size: int) -> int:
    """Bytes of a token in shards, by datatrove's rule: 2 up to 65,536 entries, else 4."""
    return 2 if size <= _TWO_BYTES else 4


def train_tokenizer(texts: Iterable[Sequence[str]], *, size: int, end_of_text: str) -> Tokenizer:
    """Train byte-level BPE (GPT-2's, Radford et al. 2019) of `size` entries on batches of texts.

    The end token is entry 0, the 256 bytes follow, so that any text can be encoded. A small corpus may hold too few
    repeated pairs for `size` entries: the tokenizer is then smaller. The same texts give the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[end_of_text or DEFAULT_END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_differences(one: Path, other: Path) -> list[str]:
    """Where two tokenizers would give other numbers for some text: the key of tokenizer.json, what each has.

    What says nothing of that is left out: padding, truncation, what is added around a text, and how tokens decode.
    """
    first, second = (flat_tokenizer(path) for path in (one, other))
    found = []
    for key in dict.fromkeys([*first, *second]):
        mine, theirs = first.get(key), second.get(key)
        if mine == theirs:
            continue
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            others = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
            name = others[0]
            found.append(
                f"{key}: {len(mine)} and {len(theirs)} entries, {len(others)} of them different, such as {name!r}: "
                f"{mine.get(name)} and {theirs.get(name)}"
            )
        elif isinstance(mine, list) and isinstance(theirs, list):
            place = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), None)
            place = min(len(mine), len(theirs)) if place is None else place
            found.append(f"{key}: {len(mine)} and {len(theirs)} items, the first different one is item {place}")
        else:
            found.append(f"{key}: {json.dumps(mine)[:60]} and {json.dumps(theirs)[:60]}")
    return found


def flat_tokenizer(path: Path) -> dict[str, Any]:
    """What decides which numbers a text becomes, by key; `model.vocab` and `added_tokens` are mappings to numbers."""
    plain = json.loads(load_tokenizer(path).to_str())
    flat = {key: plain.get(key) for key in ("normalizer", "pre_tokenizer")}
    flat["added_tokens"] = {token["content"]: token["id"] for token in plain.get("added_tokens") or ()}
    flat |= {f"model.{key}": value for key, value in plain["model"].items()}
    if isinstance(vocab := flat.get("model.vocab"), list):  # Unigram: [token, score] by number
        flat["model.vocab"] = {token: [number, score] for number, (token, score) in enumerate(vocab)}
    return flat
