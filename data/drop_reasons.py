"""Why a build drops documents: every reason that is counted, and the file that decides it.

| count in build.json | decided in                                                              | reasons           |
|---------------------|-------------------------------------------------------------------------|-------------------|
| `bad`               | data/sources/NAME.py and data/pipeline/steps/read_source.py             | the list below    |
| `filtered`          | data/filters/blocks/NAME.py, counted in steps/filter_documents.py       | the filter's own  |
| `duplicates`        | data/pipeline/steps/deduplicate.py, left out by steps/document_files.py | the next three    |
| `not_selected`      | data/pipeline/selection/, left out by steps/document_files.py           | the last four     |

A source may count a reason of its own: any single word.
"""

from __future__ import annotations

from typing import Final

BINARY: Final = "binary"  # holds a zero byte
BROKEN_JSON: Final = "broken_json"
EMPTY: Final = "empty"  # nothing but white space
INVALID_UTF8: Final = "invalid_utf8"
MISSING_FIELD: Final = "missing_field"  # no text where the source's config says
TOO_LONG: Final = "too_long"  # more bytes than data.max_document_bytes
UNREADABLE_FILE: Final = "unreadable_file"  # damaged, truncated, or not of the format that its name says

EXACT_DUPLICATE: Final = "exact"
NEAR_DUPLICATE: Final = "near"
HELD_OUT_ELSEWHERE: Final = "held_out_elsewhere"  # another source holds out the same text

TARGET: Final = "target"  # a target of the selection, or a copy of one
NEAR_HELD_OUT: Final = "near_held_out"  # a copy or near copy of a held-out document
NOT_SCORED: Final = "not_scored"  # the selector has no score for it
NOT_CHOSEN: Final = "not_chosen"  # other documents have better scores
