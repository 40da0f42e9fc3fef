"""The encoder that caches words gives the tokenizer's own tokens, for every character of its fast ranges."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors

from data.pipeline.steps import encoder as encoder_module
from data.pipeline.steps.encoder import FAST_RANGES, Encoder
from data.sources import SOURCES, RawDocument
from data.tokenizer import end_of_text_id, load_tokenizer, token_bytes, train_tokenizer, vocab_size
from settings import UserError

SPECIAL = "<|endoftext|>"


def test_bpe_dropout_is_off_so_that_one_text_always_has_the_same_tokens(path: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.model.dropout = 0.5
    tokenizer.save(str(tmp_path / "dropout.json"))
    text = "sampling functions return different segmentations, 日本"
    assert len({tuple(tokenizer.encode(text).ids) for _ in range(20)}) > 1
    plain = Tokenizer.from_file(str(path)).encode(text).ids
    assert load_tokenizer(tmp_path / "dropout.json").encode(text).ids == plain
    with_dropout = Encoder(tmp_path / "dropout.json")
    assert {with_dropout.encode([text])[0] for _ in range(20)} == {with_dropout.pack(plain)}


def library_texts(step: int) -> list[str]:
    source = SOURCES.parse("standard_library")
    read = [document for part in source.parts(1)[::step] for document in source.read(part)]
    return [document.text for document in read if isinstance(document, RawDocument)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [*library_texts(30), "Ünïcödé, ελληνικά, кириллица, “quotes” — dashes… " * 20]
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer([texts], size=2000, end_of_text="").save(str(file))
    return file


@pytest.fixture(scope="module")
def encoder(path: Path) -> Encoder:
    built = Encoder(path)
    assert built._caches_words
    return built


@functools.cache
def reference(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


def oracle(path: Path, texts: list[str]) -> list[list[int]]:
    tokenizer = reference(path)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def ids(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    kind = "<u2" if encoder.token_bytes == 2 else "<u4"
    return [np.frombuffer(tokens, dtype=kind).tolist() for tokens in encoder.encode(texts)]


@pytest.mark.parametrize("around", ["a{}b", "{}", " {} x", "1{0}{0}2", " {0}{0}a", "\n{}\t", "'{}", "'{}s", "{}'re"])
def test_every_character_of_the_fast_ranges(encoder: Encoder, path: Path, around: str) -> None:
    texts = [around.format(chr(code)) for first, last in FAST_RANGES for code in range(first, last + 1)]
    assert ids(encoder, texts) == oracle(path, texts)


def test_random_mixtures_of_all_character_classes(encoder: Encoder, path: Path) -> None:
    rng = random.Random(0)
    pool = " \n\t'stmdrevlA1²é–\x1c\x85\u3000\u200b\u0301.,_-ſK日👍"
    texts = ["".join(rng.choices(pool, k=rng.randint(0, 12))) for _ in range(30_000)]
    assert ids(encoder, texts) == oracle(path, texts)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.text(), max_size=4))
def test_any_text(encoder: Encoder, path: Path, texts: list[str]) -> None:
    assert ids(encoder, texts) == oracle(path, texts)


def test_real_texts_and_evicted_words(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = library_texts(20)
    monkeypatch.setattr(encoder_module, "_MAX_CACHED_WORDS", 500)
    monkeypatch.setattr(encoder_module, "_MAX_CACHED_WORD_LENGTH", 6)
    encoder = Encoder(path)
    for begin in range(0, len(texts), 3):
        batch = texts[begin : begin + 3]
        assert ids(encoder, batch) == oracle(path, batch)
    assert max(map(len, encoder._cache)) <= 6


def test_text_comes_back(encoder: Encoder) -> None:
    texts = ["plain", "Ünïcödé\n\n\ttabs", SPECIAL + " in a text", "日本語 👍", ""]
    assert [encoder.tokenizer.decode(tokens) for tokens in ids(encoder, texts)] == texts


def test_a_special_token_in_a_text_is_text(encoder: Encoder) -> None:
    (tokens,) = ids(encoder, [f"a{SPECIAL}b"])
    assert encoder.tokenizer.token_to_id(SPECIAL) not in tokens


def altered(path: Path, folder: Path, what: str) -> Path:
    tokenizer = Tokenizer.from_file(str(path))
    if what == "lower case":
        tokenizer.normalizer = normalizers.Lowercase()
    elif what == "a space in front":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif what == "another expression":
        split = pre_tokenizers.Split(Regex(r"\d{1,3}|\D+"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    elif what == "words of its own":
        tokenizer.add_tokens([AddedToken("kiln fire", special=False)])
    elif what == "begins and ends texts":
        end = tokenizer.token_to_id(SPECIAL)
        tokenizer.post_processor = processors.TemplateProcessing(f"{SPECIAL} $A {SPECIAL}", None, [(SPECIAL, end)])
    elif what == "cuts and pads":
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(length=8)
    file = folder / "altered.json"
    tokenizer.save(str(file))
    if what == "many entries":
        plain = json.loads(file.read_text())
        plain["model"]["vocab"] |= {f"<{number}>": number for number in range(tokenizer.get_vocab_size(), 70_000)}
        file.write_text(json.dumps(plain))
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "caches"),
    [
        ("lower case", False),
        ("a space in front", False),
        ("another expression", False),
        ("words of its own", False),
        ("begins and ends texts", True),
        ("cuts and pads", True),
        ("many entries", True),
    ],
)
def test_other_tokenizers(path: Path, tmp_path: Path, what: str, caches: bool) -> None:
    file = altered(path, tmp_path, what)
    encoder = Encoder(file)
    assert encoder._caches_words is caches
    texts = ["The kiln fire, 12345 degrees.", "  spaces  ", "Ünïcödé", ""]
    plain = Tokenizer.from_file(str(file))
    plain.encode_special_tokens = True
    plain.no_truncation()
    plain.no_padding()
    wanted = [encoding.ids for encoding in plain.encode_batch(texts, add_special_tokens=False)]
    assert ids(encoder, texts) == wanted
    assert encoder.token_bytes == (4 if what == "many entries" else 2)


def test_bytes_of_a_token() -> None:
    assert [token_bytes(size) for size in (257, 65_536, 65_537, 200_000)] == [2, 2, 4, 4]


def test_training_is_deterministic_and_a_small_corpus_gives_fewer_entries(tmp_path: Path) -> None:
    texts = library_texts(60)
    one, two = (train_tokenizer([texts], size=600, end_of_text="") for _ in range(2))
    assert one.to_str() == two.to_str()
    assert vocab_size(one) == 600
    assert one.token_to_id(SPECIAL) == 0
    batched = train_tokenizer([[text] for text in texts], size=600, end_of_text="")
    assert batched.to_str() == one.to_str()
    small = train_tokenizer([["ab ab"]], size=5000, end_of_text="<end>")
    assert 257 <= vocab_size(small) < 300
    assert small.token_to_id("<end>") == 0
    assert small.decode(small.encode("zażółć 日本").ids) == "zażółć 日本"  # all bytes are there


def test_the_end_of_text_token_is_found_or_must_be_named(path: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(path)
    assert end_of_text_id(tokenizer, "", path) == 0
    with pytest.raises(UserError, match=r'end_of_text = "Z" is a token of ordinary text'):
        end_of_text_id(tokenizer, "Z", path)
    with pytest.raises(UserError, match=r'end_of_text = "<nope>" is not in the vocabulary'):
        end_of_text_id(tokenizer, "<nope>", path)
    other = train_tokenizer([["ab"]], size=300, end_of_text="<my end>")
    with pytest.raises(UserError, match="name the token that ends a document"):
        end_of_text_id(other, "", path)
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(UserError, match=r"broken\.json is not a tokenizer\.json"):
        load_tokenizer(tmp_path / "broken.json")
