"""Parquet files, read row group by row group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from data.drop_reasons import INVALID_UTF8, MISSING_FIELD, UNREADABLE_FILE
from data.sources.base import SOURCES, BadDocument, InputPart, RawDocument, SourceConfig
from data.sources.files import count_unread, find_input_files

_ROWS_PER_BATCH = 1024
_TEXT_PER_BYTE = 3  # an estimate: columns are compressed


@SOURCES.register
class ParquetConfig(SourceConfig):
    """Parquet files: a row is a document, its text in the column `text_field`."""

    name: Literal["parquet"] = "parquet"
    paths: tuple[str, ...] = Field(min_length=1, description="Files, folders or glob patterns.")
    text_field: str = Field("text", description="The column that holds the text.")

    def files(self) -> Sequence[Path]:
        return find_input_files(self.paths, (".parquet",), key="paths")

    def unread(self) -> Mapping[str, int]:
        return count_unread(self.paths, (".parquet",), key="paths")

    def parts(self, part_bytes: int) -> Sequence[InputPart]:
        """Deal row groups out in turn; a file of one row group is one part."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = []
        for file in self.files():
            size = file.stat().st_size * _TEXT_PER_BYTE
            try:
                groups = pq.read_metadata(file).num_row_groups
            except (OSError, pa.ArrowException):
                groups = 1  # `read` reports what is wrong with the file
            count = max(1, min(round(size / part_bytes), groups))
            parts += [InputPart(file, size // count, index, count) for index in range(count)]
        return parts

    def read(self, part: InputPart) -> Iterator[RawDocument | BadDocument]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        row = 0
        try:
            with pq.ParquetFile(part.path) as file:
                if self.text_field not in file.schema_arrow.names:
                    columns = ", ".join(file.schema_arrow.names[:10])
                    detail = f'no column "{self.text_field}", but {columns or "none"} (text_field names the column)'
                    yield BadDocument(UNREADABLE_FILE, str(part.path), detail)
                    return
                for group in range(file.num_row_groups):
                    if group % part.count != part.index:
                        row += file.metadata.row_group(group).num_rows
                        continue
                    batches = file.iter_batches(
                        _ROWS_PER_BATCH, row_groups=[group], columns=[self.text_field], use_threads=False
                    )
                    for batch in batches:
                        for value in _as_bytes(batch.column(0)):
                            yield self._document(value, f"{part.path}, row {row}")
                            row += 1
        except (OSError, pa.ArrowException) as error:
            yield BadDocument(UNREADABLE_FILE, str(part.path), str(error).splitlines()[0])

    @classmethod
    def example(cls, folder: Path, documents: Sequence[str]) -> Self:
        import pyarrow as pa
        import pyarrow.parquet as pq

        many, few = documents[len(documents) // 7 :], documents[: len(documents) // 7]
        pq.write_table(
            pa.table({"text": many, "number": list(range(len(many)))}), folder / "a.parquet", row_group_size=70
        )
        pq.write_table(pa.table({"text": few}), folder / "b.parquet")
        return cls(paths=(str(folder / "*.parquet"),))

    def _document(self, value: object, where: str) -> RawDocument | BadDocument:
        if not isinstance(value, bytes):
            return BadDocument(MISSING_FIELD, where, f'"{self.text_field}" is {type(value).__name__}, not text')
        try:
            return RawDocument(value.decode(), where)
        except UnicodeDecodeError as error:
            return BadDocument(INVALID_UTF8, where, str(error))


def _as_bytes(column: Any) -> list[object]:
    """Return strings as bytes, since parquet does not promise that they are UTF-8; other types as they are."""
    import pyarrow as pa

    assert isinstance(column, pa.Array)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    for is_string, binary in (
        (pa.types.is_string, pa.binary()),
        (pa.types.is_large_string, pa.large_binary()),
        (pa.types.is_string_view, pa.binary_view()),
    ):
        if is_string(column.type):
            column = column.view(binary)
            break
    values: list[object] = column.to_pylist()
    return values
