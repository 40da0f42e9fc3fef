"""The filters of a build: drops documents that a filter rejects, and counts why."""

from __future__ import annotations

from collections.abc import Iterator

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter, get_filter_result

from data.pipeline.plan import Task
from data.pipeline.work_folder import Counts, WorkFolder


class FilterDocuments(PipelineStep):  # type: ignore[misc]
    """Applies the filters of a task's source, one after the other, and counts the reasons for dropped documents."""

    type = "filter"
    name = "filters"

    def __init__(self, work: WorkFolder, tasks: tuple[Task, ...], filters: dict[str, tuple[BaseFilter, ...]]) -> None:
        super().__init__()
        self.work, self.tasks, self.filters = work, tasks, filters

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents that every filter keeps."""
        filters = self.filters[self.tasks[rank].source]
        counts = Counts()
        for document in data:
            for filter_ in filters:
                keep, reason = get_filter_result(filter_.filter(document))
                if not keep:
                    counts[reason or "unnamed"] += 1
                    break
            else:
                yield document
        counts.write(self.work.report("filtered", rank))
