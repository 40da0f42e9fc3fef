"""Deduplication against datatrove's own: the same signatures to the bit, the same number of documents stay."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.utils import text as datatrove_text
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import DeduplicateConfig
from data.pipeline.steps.deduplicate import ClusterDuplicates, ComputeSignatures, FindDuplicates, buckets
from data.pipeline.steps.hashing import text_hash
from data.pipeline.steps.minhash import MinHash
from data.pipeline.steps.simplify import WhitespaceTokenizer, simplify_text
from data.pipeline.work_folder import WorkFolder, read_numbers, read_report

TASKS = 3


def documents(texts: list[str]) -> Iterator[Document]:
    for number, text in enumerate(texts):
        yield Document(text=text, id=str(number), metadata={"hash": text_hash(text.encode())})


def near_duplicates(count: int) -> list[str]:
    """Make families of copies of a text with more or fewer words changed, some equal, some too short for n-grams."""
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("abcdefghij", k=5)) for _ in range(3000)]  # numbers would all become 0
    families = [rng.choices(vocabulary, k=rng.randint(20, 200)) for _ in range(count // 4)]
    texts = []
    for _ in range(count):
        words = list(rng.choice(families))
        for _ in range(rng.choice([0, 0, 1, 2, 5, 20, 80])):
            words[rng.randrange(len(words))] = rng.choice(vocabulary)
        texts.append(" ".join(words))
    return [*texts, "one two", "one two", "three", ""]


def keep(texts: list[str], config: DeduplicateConfig, folder: Path, find_tasks: int = 1) -> list[list[str]]:
    """Return the documents that each task keeps by lehr's steps."""
    work = WorkFolder(folder)
    parts = [texts[rank::TASKS] for rank in range(TASKS)]
    for rank, part in enumerate(parts):
        passed_on = [
            document.text
            for document in ComputeSignatures(work, config, tasks=range(TASKS)).run(documents(part), rank, TASKS)
        ]
        assert passed_on == part
    for rank in range(find_tasks):
        list(FindDuplicates(work, config, tasks=range(TASKS)).run(None, rank, find_tasks))
    list(ClusterDuplicates(work, buckets(config), fractions=[0.0] * TASKS).run(None, 0, 1))
    duplicates = [read_numbers(work.dropped(rank)) for rank in range(TASKS)]
    return [
        [text for number, text in enumerate(part) if number not in duplicates[rank]] for rank, part in enumerate(parts)
    ]


def keep_by_datatrove(texts: list[str], folder: Path) -> list[list[str]]:
    config = MinhashConfig()
    parts = [texts[rank::TASKS] for rank in range(TASKS)]
    for rank, part in enumerate(parts):
        MinhashDedupSignature(str(folder / "sig"), config, language=WhitespaceTokenizer()).run(
            documents(part), rank, TASKS
        )
    for rank in range(config.num_buckets):
        MinhashDedupBuckets(str(folder / "sig"), str(folder / "dups"), config=config).run(
            None, rank, config.num_buckets
        )
    MinhashDedupCluster(str(folder / "dups"), str(folder / "remove"), config).run(None, 0, 1)
    step = MinhashDedupFilter(str(folder / "remove"))
    return [[document.text for document in step.run(documents(part), rank, TASKS)] for rank, part in enumerate(parts)]


def test_as_many_documents_stay_as_with_datatrove(tmp_path: Path) -> None:
    texts = near_duplicates(400)
    lehr = keep(texts, DeduplicateConfig(exact=False, minhash=True), tmp_path / "lehr")
    datatrove = keep_by_datatrove(texts, tmp_path / "datatrove")
    assert sum(map(len, lehr)) == sum(map(len, datatrove))
    assert 100 < sum(map(len, lehr)) < 300


def test_the_first_of_each_cluster_stays(tmp_path: Path) -> None:
    """The document of the earlier task stays, and of one task's documents the earlier one."""
    base = near_duplicates(4)[0]
    texts = [f"{base} {'tail ' * number}" for number in range(9)]
    config = DeduplicateConfig(minhash=True)
    assert keep(texts, config, tmp_path) == [[texts[0]], [], []]


def test_a_cluster_is_never_lost_between_exact_and_near(tmp_path: Path) -> None:
    texts = near_duplicates(400)
    both = keep(texts, DeduplicateConfig(exact=True, minhash=True), tmp_path / "both")
    near = keep(texts, DeduplicateConfig(exact=False, minhash=True), tmp_path / "near")
    left = {text for part in both for text in part}
    assert len(left) == sum(map(len, both))
    # The texts of fewer than five words have no n-gram, so only their exact copies are dropped.
    assert sum(map(len, near)) - sum(map(len, both)) == texts.count("one two") - 1
    report = [read_report(WorkFolder(tmp_path / "both").report("duplicates", rank)) for rank in range(TASKS)]
    assert sum(part.get("exact", 0) + part.get("near", 0) for part in report) == len(texts) - len(left)


def test_exact_deduplication(tmp_path: Path) -> None:
    texts = ["a", "b", "a", "c", "a", "b", "d", "e", "A"]
    parts = keep(texts, DeduplicateConfig(exact=True), tmp_path)
    assert sorted(text for part in parts for text in part) == sorted(set(texts))
    assert parts[0] == ["a", "c", "d"]  # documents of the first task stay


SUMS = [f"Add the numbers.\n{a} + {a + 7} = {2 * a + 7}\n{a + 9} - {a} = 9" for a in range(200)]
TABLES = ["id,price,count\n" + "\n".join(f"{row},{row * k}.5,{k}" for row in range(40)) for k in range(1, 51)]
CODE = [f"def f(x):\n    y = x {sign} {n}\n    return [y, y, y]" for n in range(10) for sign in ("+", "-", "*", "//")]


@pytest.mark.parametrize("texts", [SUMS, TABLES, CODE], ids=["sums", "tables", "code"])
def test_what_differs_in_digits_and_punctuation_alone(tmp_path: Path, texts: list[str]) -> None:
    """Simplified texts are equal; the words as they stand are not."""
    simplified = keep(texts, DeduplicateConfig(minhash=True), tmp_path / "simplified")
    assert sum(map(len, simplified)) == 1
    raw = keep([*texts, texts[0] + "\n"], DeduplicateConfig(minhash=True, text="raw"), tmp_path / "raw")
    assert sum(map(len, raw)) > 0.9 * len(texts)
    assert texts[0] + "\n" not in {text for part in raw for text in part}  # white space alone still does not count


def test_raw_texts_have_the_signatures_of_datatrove_without_its_simplification() -> None:
    config = DeduplicateConfig(text="raw")
    plain = MinhashConfig()
    plain.norm_config = datatrove_text.TextNormConfig(
        lowercase=False,
        norm_whitespace=True,
        remove_punctuation=False,
        norm_unicode_diacritics=False,
        norm_numbers=False,
    )
    datatrove = MinhashDedupSignature(".", plain, language=WhitespaceTokenizer())
    for text in (SUMS[3], TABLES[2], CODE[1], "É e\u0301 日本語です don't, 3.14"):
        wanted = list(chain(*datatrove.get_signature(datatrove.get_shingles(text))))
        assert MinHash(config).signature(text).tolist() == wanted


def test_nothing_to_compare(tmp_path: Path) -> None:
    for texts in ([], ["one"], ["a b c d e f", "g h i j k l m"]):
        parts = keep(texts, DeduplicateConfig(minhash=True), tmp_path / str(len(texts)))
        assert sum(map(len, parts)) == len(texts)


@pytest.mark.parametrize("find_tasks", [2, 15, 40])
def test_more_tasks_find_the_same(tmp_path: Path, find_tasks: int) -> None:
    texts = near_duplicates(100)
    config = DeduplicateConfig(minhash=True)
    assert keep(texts, config, tmp_path / "many", find_tasks) == keep(texts, config, tmp_path / "one")


def test_buckets() -> None:
    assert buckets(DeduplicateConfig(exact=True)) == [0]
    assert buckets(DeduplicateConfig(exact=False, minhash=True, buckets=3)) == [1, 2, 3]
    assert buckets(DeduplicateConfig(exact=False)) == []


TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(
        st.sampled_from(["The", "kiln", "3.14", "1,000", "É", "e\u0301", "٣", "don't", "日本", "x" * 50, "\n", "  "])
    ).map(" ".join),
)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_signatures_equal_those_of_datatrove_to_the_bit(text: str) -> None:
    config = DeduplicateConfig()
    lehr = MinHash(config)
    datatrove = MinhashDedupSignature(".", MinhashConfig(), language=WhitespaceTokenizer())
    shingles = datatrove.get_shingles(text)
    assert np.array_equal(lehr.get_shingles(text), shingles)
    wanted = list(chain(*datatrove.get_signature(shingles))) if shingles.size else []
    assert lehr.signature(text).tolist() == wanted


def test_signatures_of_a_long_text_and_other_sizes() -> None:
    rng = random.Random(1)
    text = " ".join(str(rng.random()) for _ in range(5000))
    for n, count, width in ((5, 14, 8), (1, 3, 2), (13, 20, 5)):
        lehr = MinHash(DeduplicateConfig(ngram_words=n, buckets=count, hashes_per_bucket=width))
        stock_config = MinhashConfig(n_grams=n, num_buckets=count, hashes_per_bucket=width)
        datatrove = MinhashDedupSignature(".", stock_config, language=WhitespaceTokenizer())
        assert lehr.signature(text).tolist() == list(chain(*datatrove.get_signature(datatrove.get_shingles(text))))


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_simplified_text_equals_that_of_datatrove(text: str) -> None:
    assert simplify_text(text).split() == WhitespaceTokenizer().word_tokenize(datatrove_text.simplify_text(text))


def test_scripts_without_spaces_have_words(tmp_path: Path) -> None:
    text = "窯の中でガラスはゆっくりと冷やされる。急に冷やすと割れてしまうからである。"
    assert MinHash(DeduplicateConfig()).signature(text).size
    parts = keep(
        [text, text[:-1] + "！", "全く別の文章がここにあります。これは似ていない。"],
        DeduplicateConfig(minhash=True),
        tmp_path,
    )
    assert sum(map(len, parts)) == 2
