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
    """Load a tokenizer that encodes plain text as it is: nothing is added, truncated or padded.

    Documents are encoded by `text_tokenizer`, which never gives a special token. Raises UserError if the file is
    missing or is not a tokenizer.
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
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None  # BPE dropout draws at random, so two builds would differ
    return tokenizer


def end_of_text_id(tokenizer: Tokenizer, name: str, path: Path) -> int:
    """Return the id of the end-of-text token: `name`, or if that is empty, the first of the usual names.

    Raises UserError if the vocabulary has no such token, or if the token is needed to encode ordinary text.
    """
    for candidate in (name,) if name else _KNOWN_ENDS:
        token_id = tokenizer.token_to_id(candidate)
        if token_id is not None:
            if _is_ordinary(candidate, json.loads(tokenizer.to_str())["model"]):
                raise UserError(
                    f'tokenizer.end_of_text = "{candidate}" is a token of ordinary text in {path}: it would end '
                    "documents in their middle; name a token that no text holds"
                )
            return int(token_id)
    if name:
        raise UserError(f'tokenizer.end_of_text = "{name}" is not in the vocabulary of {path}; name one of its tokens')
    raise UserError(
        f"tokenizer.end_of_text: {path} has none of {', '.join(_KNOWN_ENDS)}; name the token that ends a document"
    )


def text_tokenizer(tokenizer: Tokenizer, end_id: int) -> Tokenizer:
    """Return a tokenizer of the same ids that takes all text for text: only its unknown token stays special.

    The names of special tokens, of the end of text and of the unknown token get a zero byte in front, which no document
    has, so that none of them matches text. The library's own setting, encode_special_tokens, is not enough: a special
    token that is also in the model's vocabulary is still found by Unigram, WordLevel and WordPiece, and by BPE with
    ignore_merges; and an end of text that is not marked as special is always found.
    """
    from tokenizers import Tokenizer

    plain = json.loads(tokenizer.to_str())
    model = plain["model"]
    special = {token["content"] for token in plain["added_tokens"] if token["special"]}
    special |= {tokenizer.id_to_token(end_id), model.get("unk_token")} - {None}
    special -= {name for name in special if _is_ordinary(name, model)}
    hidden = {name: f"\0{name}" for name in special}
    for token in plain["added_tokens"]:
        token["content"] = hidden.get(token["content"], token["content"])
    if isinstance(model["vocab"], list):  # Unigram has a list of [token, score], and the index of the unknown token
        unknown = model.get("unk_id")
        for index, entry in enumerate(model["vocab"]):
            entry[0] = f"\0{entry[0]}" if index == unknown else hidden.get(entry[0], entry[0])
    else:
        model["vocab"] = {hidden.get(name, name): id_ for name, id_ in model["vocab"].items()}
    if "unk_token" in model:
        model["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])
    plain["post_processor"] = None  # it names special tokens, and adds nothing to the ids of plain text
    text_only = Tokenizer.from_str(json.dumps(plain))
    text_only.encode_special_tokens = True
    return text_only


def _is_ordinary(name: str, model: Mapping[str, Any]) -> bool:
    """Return whether a model needs the token for ordinary text: it is a letter, or BPE merges pairs to or with it."""
    from tokenizers import pre_tokenizers

    if name in pre_tokenizers.ByteLevel.alphabet():
        return True
    prefix = model.get("continuing_subword_prefix") or ""
    return any(name in (*pair, pair[0] + pair[1].removeprefix(prefix)) for pair in model.get("merges") or ())


def vocab_size(tokenizer: Tokenizer) -> int:
    """Return one more than the largest id, which is the size of an embedding even if ids have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def token_bytes(size: int) -> int:
    """Return the bytes of a token in shards, by datatrove's rule: 2 up to 65,536 entries, else 4."""
    return 2 if size <= _TWO_BYTES else 4


def train_tokenizer(texts: Iterable[Sequence[str]], *, size: int, end_of_text: str) -> Tokenizer:
    """Train a byte-level BPE (GPT-2's, Radford et al. 2019) of `size` entries on batches of texts.

    Entry 0 is the end-of-text token, and the 256 bytes follow, so that any text can be encoded. A small corpus may have
    too few repeated pairs for `size` entries; the tokenizer is then smaller. The same texts give the same tokenizer.
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
    """List the keys of tokenizer.json by which two tokenizers may give other ids for a text, and what each file has.

    Keys that do not decide the ids are not compared: padding, truncation, post-processing and decoding.
    """
    flat_one, flat_other = (flat_tokenizer(path) for path in (one, other))
    found = []
    for key in dict.fromkeys([*flat_one, *flat_other]):
        a, b = flat_one.get(key), flat_other.get(key)
        if a == b:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            differing = sorted(name for name in {*a, *b} if a.get(name) != b.get(name))
            name = differing[0]
            found.append(
                f"{key}: {len(a)} and {len(b)} entries, {len(differing)} of them different, such as {name!r}: "
                f"{a.get(name)} and {b.get(name)}"
            )
        elif isinstance(a, list) and isinstance(b, list):
            index = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            found.append(f"{key}: {len(a)} and {len(b)} items, the first different one is item {index}")
        else:
            found.append(f"{key}: {json.dumps(a)[:60]} and {json.dumps(b)[:60]}")
    return found


def flat_tokenizer(path: Path) -> dict[str, Any]:
    """Return the entries of tokenizer.json that decide the ids of a text, by dotted key.

    `model.vocab` and `added_tokens` are mappings from tokens to ids.
    """
    plain = json.loads(load_tokenizer(path).to_str())
    flat = {key: plain.get(key) for key in ("normalizer", "pre_tokenizer")}
    flat["added_tokens"] = {token["content"]: token["id"] for token in plain.get("added_tokens") or ()}
    flat |= {f"model.{key}": value for key, value in plain["model"].items()}
    if isinstance(vocab := flat.get("model.vocab"), list):  # Unigram has a list of [token, score]
        flat["model.vocab"] = {token: [id_, score] for id_, (token, score) in enumerate(vocab)}
    return flat
