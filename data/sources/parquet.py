"""Parquet files, read row group by row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data.sources.base import SOURCES, BadDocument, Piece, SourceConfig, Text
from data.sources.files import find_input_files

_ROWS_AT_ONCE = 1024
_TEXT_PER_BYTE = 3  # about: columns are compressed


@SOURCES.register
class ParquetConfig(SourceConfig):
    """Parquet files: a row is a document, its text in the column `text_field`."""

    name: Literal["parquet"] = "parquet"
    paths: tuple[str, ...] = Field(min_length=1, description="Files, folders or glob patterns.")
    text_field: str = Field("text", description="The column that holds the text.")

    def files(self) -> Sequence[Path]:
        return find_input_files(self.paths, (".parquet",), key="paths")

    def pieces(self, piece_bytes: int) -> Sequence[Piece]:
        """Row groups are dealt out in turn; a file of one row group is not cut."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        pieces = []
        for file in self.files():
            size = file.stat().st_size * _TEXT_PER_BYTE
            try:
                groups = pq.read_metadata(file).num_row_groups
            except (OSError, pa.ArrowException):
                groups = 1  # `read` says what is wrong with it
            parts = max(1, min(round(size / piece_bytes), groups))
            pieces += [Piece(file, size // parts, part, parts) for part in range(parts)]
        return pieces

    def read(self, piece: Piece) -> Iterator[Text | BadDocument]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        row = 0
        try:
            with pq.ParquetFile(piece.path) as file:
                if self.text_field not in file.schema_arrow.names:
                    yield BadDocument("missing_field", str(piece.path), f'no column "{self.text_field}"')
                    return
                for group in range(file.num_row_groups):
                    if group % piece.parts != piece.part:
                        row += file.metadata.row_group(group).num_rows
                        continue
                    batches = file.iter_batches(
                        _ROWS_AT_ONCE, row_groups=[group], columns=[self.text_field], use_threads=False
                    )
                    for batch in batches:
                        for value in _as_bytes(batch.column(0)):
                            yield self._text(value, f"{piece.path}, row {row}")
                            row += 1
        except (OSError, pa.ArrowException) as error:
            yield BadDocument("unreadable_file", str(piece.path), str(error).splitlines()[0])

    def _text(self, value: object, where: str) -> Text | BadDocument:
        if not isinstance(value, bytes):
            return BadDocument("missing_field", where, f'"{self.text_field}" is {type(value).__name__}, not text')
        try:
            return Text(value.decode(), where)
        except UnicodeDecodeError as error:
            return BadDocument("invalid_utf8", where, str(error))


def _as_bytes(column: Any) -> list[object]:
    """Strings as bytes, since parquet does not promise that they are UTF-8; other types as they are."""
    import pyarrow as pa

    assert isinstance(column, pa.Array)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.view(pa.binary() if pa.types.is_string(column.type) else pa.large_binary())
    values: list[object] = column.to_pylist()
    return values
