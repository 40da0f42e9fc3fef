"""The last act of a build: the finished folder gets its name, and from then on the shards exist."""

from __future__ import annotations

import errno
import shutil

from data.config import DataConfig
from data.pipeline.report import SourceReport, read_build_file
from data.pipeline.work_folder import WorkFolder
from settings import UserError
from settings.files import flush_folder


def publish(config: DataConfig, work: WorkFolder) -> dict[str, SourceReport]:
    """Rename the finished folder to `data.shards`, remove the work folder, and return the report.

    Raises UserError if no document is left, or none of one source with `data.on_bad_document = "fail"`.
    """
    record = read_build_file(work.shards)
    assert record is not None, "the last stage writes it"
    if all(source.is_empty for source in record.sources.values()):
        lines = "\n  ".join(source.line(name) for name, source in record.sources.items())
        raise UserError(f"no document is left to make shards of:\n  {lines}\nloosen data.filters, or fix the sources")
    for name, source in record.sources.items():
        if source.is_empty and config.on_bad_document == "fail":
            raise UserError(
                f"data.sources.{name} has no document left ({source.line(name)}); fix or remove it, "
                "or leave it out of the shards with data.on_bad_document=skip"
            )
    shards = config.shards.resolve()
    try:
        work.shards.rename(shards)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise UserError(f"data.shards = {shards} has appeared during the build; name another folder") from None
    flush_folder(shards.parent)
    shutil.rmtree(work.path)
    return record.sources
