"""Texts for tests of filters: prose, odd texts, and texts around the thresholds of every rule."""

from __future__ import annotations

import random

from data.sources import SOURCES, RawDocument

ARTICLE = (
    "The kiln is the oven in which glass is annealed. A part that has been blown is hot, and its skin cools before "
    "its heart; if it were left to stand in the open air it would crack within the hour. So the glassmaker carries it "
    "to the kiln, which has been brought to the right heat beforehand, and shuts the door. Over the night the fire is "
    "let down by degrees, and in the morning the part can be taken out, cut, and sold. Those who have worked with "
    "glass know that the waiting is the greater part of the work, and that most failures have their cause in haste."
)
ODD = (
    "a",
    ".",
    "…",
    "\n",
    "word",
    "- " * 400,
    "x" * 200_000,
    "the the the the " * 300,
    "日本語の文章はスペースなしで書かれます。" * 20,
    "👩‍👩‍👧 🇫🇷 e\u0301\u0302 \u200b \ufeff",
    "line\n" * 500,
    "\u2028\u2029\x85\x1c",
    "#" * 100,
)


def real_texts() -> list[str]:
    """Return code and documentation of this machine's own Python, which needs no download."""
    source = SOURCES.parse("standard_library")
    read = [document for part in source.parts(1)[::20] for document in source.read(part)]
    texts = [document.text for document in read if isinstance(document, RawDocument)]
    return [text[:30_000] for text in texts if text]


def made_texts(count: int) -> list[str]:
    """Make texts of words in random order with repeated phrases, around the thresholds of every rule."""
    rng = random.Random(0)
    words = "the of and that to be have with glass kiln fire hour it's U.S. 3.14 1,000 don't -- ... • # é 1 11 a,b"
    vocabulary = words.split()
    texts = []
    for _ in range(count):
        phrases = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 12))) for _ in range(rng.randint(1, 40))]
        repeats = rng.choices(phrases, k=rng.randint(1, 60))
        texts.append(rng.choice([" ", "\n", "\n\n", ". "]).join(repeats))
    return texts


TEXTS = [*real_texts(), *made_texts(700), *(text for text in ODD if text != "…")]
