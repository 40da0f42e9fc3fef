"""Text is text for every kind of tokenizer: no document holds a special token, whatever it spells."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from data.pipeline.steps.encoder import Encoder
from data.tokenizer import end_of_text_id, load_tokenizer
from settings import UserError

END, BEGIN, UNKNOWN = "</s>", "<s>", "<unk>"
SPELLED = [END, BEGIN, UNKNOWN]
LETTERS = string.ascii_letters + "<>/é "
CORPUS = ["one two three", "the unknown </s> token", LETTERS] * 3


def byte_level_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPELLED, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS[:1], trainer)
    return tokenizer


def bpe_that_ignores_merges() -> Tokenizer:
    vocab = {token: id_ for id_, token in enumerate([*SPELLED, *dict.fromkeys(LETTERS)])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token=UNKNOWN, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    return tokenizer


def unigram() -> Tokenizer:
    pieces = [(UNKNOWN, 0.0), (BEGIN, 0.0), (END, 0.0), ("▁one", -3.0), ("▁", -4.0)]
    tokenizer = Tokenizer(models.Unigram([*pieces, *((letter, -5.0) for letter in dict.fromkeys(LETTERS))], 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0, BEGIN: 1, END: 2, "one": 3, "two": 4}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def word_piece() -> Tokenizer:
    pieces = [UNKNOWN, BEGIN, END, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocab = {piece: id_ for id_, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


KINDS: list[Callable[[], Tokenizer]] = [byte_level_bpe, bpe_that_ignores_merges, unigram, word_level, word_piece]
ADDED = {
    "no added tokens": [],
    "special tokens": [AddedToken(name, special=True) for name in SPELLED],
    "an end that is not special": [AddedToken(END, special=False)],
    "an end that takes its spaces": [AddedToken(END, special=True, lstrip=True, rstrip=True)],
}
NORMALIZERS = {"none": None, "lower case": normalizers.Lowercase(), "NFKC": normalizers.NFKC()}


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def ids_of(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    kind = {2: "<u2", 4: "<u4"}[encoder.token_bytes]
    return [np.frombuffer(tokens, dtype=kind).tolist() for tokens in encoder.encode(texts)]


TEXTS = st.lists(
    st.one_of(st.sampled_from([*SPELLED, "</S>", "＜/s＞", " ", "one", "two"]), st.text(LETTERS + "日", max_size=4)),
    max_size=8,
).map("".join)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_text_has_a_special_token(
    kind: Callable[[], Tokenizer], added: str, normalizer: str, tmp_path: Path
) -> None:
    tokenizer = kind()
    tokenizer.add_special_tokens([token for token in ADDED[added] if token.special])
    tokenizer.add_tokens([token for token in ADDED[added] if not token.special])
    if NORMALIZERS[normalizer]:
        tokenizer.normalizer = NORMALIZERS[normalizer]
    path = save(tokenizer, tmp_path)
    encoder, library = Encoder(path, END), load_tokenizer(path)
    declared = {token.content for token in ADDED[added] if token.special}
    special = {tokenizer.token_to_id(name) for name in declared - {UNKNOWN} | {END}}

    @settings(max_examples=40, deadline=None)
    @given(text=TEXTS)
    def check(text: str) -> None:
        (ids,) = ids_of(encoder, [text])
        assert not special.intersection(ids)
        if not any(sign in text for sign in "<＜"):
            assert ids == library.encode(text, add_special_tokens=False).ids

    check()
    for text in ("one </s> two", "</s>", "one</s>", "</S>"):
        assert not special.intersection(*ids_of(encoder, [text]))


def test_a_spelled_end_decodes_to_its_letters(tmp_path: Path) -> None:
    for kind in (byte_level_bpe, bpe_that_ignores_merges, unigram):
        encoder = Encoder(save(kind(), tmp_path), END)
        (ids,) = ids_of(encoder, ["one </s> two"])
        tokens = [encoder.tokenizer.id_to_token(id_) for id_ in ids]
        assert "".join(tokens).replace("▁", " ").replace("Ġ", " ").strip() == "one </s> two"
        assert len(tokens) > 3


def test_an_end_that_is_also_the_unknown_token_is_refused_at_the_text(tmp_path: Path) -> None:
    encoder = Encoder(save(word_level(), tmp_path), UNKNOWN)
    assert ids_of(encoder, ["one two"]) == [[3, 4]]
    with pytest.raises(UserError, match=r'end_of_text = "<unk>": .* for \'three\' within a document'):
        encoder.encode(["one three"])


@pytest.mark.parametrize("name", ["o", "one"])
def test_an_end_that_text_needs_is_refused(tmp_path: Path, name: str) -> None:
    tokenizer = byte_level_bpe()
    trainer = trainers.BpeTrainer(special_tokens=[name], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["one one one"], trainer)
    with pytest.raises(UserError, match=f'end_of_text = "{name}" is a token of ordinary text'):
        end_of_text_id(tokenizer, name, tmp_path)
