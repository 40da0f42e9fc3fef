"""Long texts divided into passages: with a play or a manual as one document, little could be held out or selected."""

from __future__ import annotations

from collections.abc import Iterator

from data.sources.base import RawDocument


def divide_into_passages(document: RawDocument, passage_bytes: int) -> Iterator[RawDocument]:
    """Yields passages of about `passage_bytes`, each of which ends at the end of a paragraph.

    A passage has one paragraph at least. Paragraphs are joined by empty lines, of which a text may have had more.
    """
    passage: list[str] = []
    length = 0
    for paragraph in document.text.replace("\r\n", "\n").split("\n\n"):
        if not paragraph.strip():
            continue
        passage.append(paragraph.strip("\n"))
        length += len(paragraph)
        if length >= passage_bytes:
            yield RawDocument("\n\n".join(passage), document.where)
            passage, length = [], 0
    if passage:
        yield RawDocument("\n\n".join(passage), document.where)
