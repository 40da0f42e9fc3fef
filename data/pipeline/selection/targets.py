"""The targets of a selection: a split of their own, disjoint from the documents to train on and from held-out ones."""

from __future__ import annotations

from collections.abc import Iterator

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data.config import DataConfig
from data.drop_reasons import NEAR_HELD_OUT
from data.pipeline.input_fingerprint import check_unchanged
from data.pipeline.plan import Plan
from data.pipeline.selection.held_out_signatures import EvaluationCopies, write_evaluation_hashes
from data.pipeline.steps.document_files import as_line, read_lines, write_lines
from data.pipeline.steps.hashing import is_held_out, text_hash
from data.pipeline.task_progress import TaskProgress
from data.pipeline.work_folder import Counts, WorkFolder, read_numbers
from data.select_config import TargetConfig
from data.sources import RawDocument, SourceConfig
from settings import UserError

STAGE = "targets"
_PART_BYTES = 2**28
_HASHES = 2**64


class PrepareTargets(PipelineStep):  # type: ignore[misc]
    """Gathers the hashes of the held-out documents, and writes the targets without copies and near copies of those."""

    type = "selection"
    name = "targets"

    def __init__(self, work: WorkFolder, config: DataConfig, plan: Plan, inputs: dict[str, str]) -> None:
        super().__init__()
        self.work, self.config, self.plan, self.inputs = work, config, plan, inputs

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the targets, sorted by hash, each text once; yield nothing. Raises UserError if no target is left."""
        assert self.config.select is not None
        write_evaluation_hashes(self.work, self.config, tasks=len(self.plan.tasks))
        target = self.config.select.target
        copies = EvaluationCopies(self.work, self.config)
        progress = TaskProgress(self.work.progress(STAGE, 0))
        counts = Counts(targets=0)
        targets: dict[int, str] = {}
        for hash_, text in self._candidates(target) if target else ():
            if not text.strip():
                continue
            if copies.has_copy(hash_) or copies.has_near_copy(text):
                counts[NEAR_HELD_OUT] += 1
            else:
                targets[hash_] = text
            progress.add(len(text.encode()))
        if target and not targets:
            copied = f"; {counts[NEAR_HELD_OUT]:,} are copies of held-out documents" if counts[NEAR_HELD_OUT] else ""
            raise UserError(f"data.select.target: no document with text is left to compare with{copied}")
        with write_lines(self.work.targets) as file:
            for hash_ in sorted(targets):
                file.write(as_line([hash_, targets[hash_]]))
        counts["targets"] = len(targets)
        counts.write(self.work.report(STAGE, 0))
        yield from ()

    def _candidates(self, target: TargetConfig) -> Iterator[tuple[int, str]]:
        """Yield the hash and the text of each document that the config names as a target."""
        if target.from_source:
            yield from self._from_source(target.from_source, target.fraction)
        for text in target.documents:
            yield text_hash(text.encode()), text
        for key, source in self.config.select.input_sources().items() if self.config.select else ():
            yield from self._own_text(key, source)

    def _from_source(self, name: str, fraction: float) -> Iterator[tuple[int, str]]:
        """Yield the documents of a source of the pool with the highest hashes, so a larger fraction takes more."""
        least = int((1 - fraction) * _HASHES)
        held_out_fraction = self.config.held_out_fraction_of(name)
        for rank in self.plan.tasks_of(name):
            dropped = read_numbers(self.work.dropped(rank)) if self.config.compares_documents else frozenset()
            for number, (hash_, text) in enumerate(read_lines(self.work.documents(rank))):
                if hash_ >= least and number not in dropped and not is_held_out(hash_, held_out_fraction):
                    yield hash_, text

    def _own_text(self, key: str, source: SourceConfig) -> Iterator[tuple[int, str]]:
        """Yield the documents of the targets' own source, up to its max_bytes."""
        taken = 0
        for part in source.parts(_PART_BYTES):
            for item in source.read(part):
                if not isinstance(item, RawDocument):
                    raise UserError(f"{key}: {item.reason} at {item.where} {item.detail}; repair or remove it".rstrip())
                content = item.text.encode()
                if source.max_bytes and taken >= source.max_bytes:
                    return
                taken += len(content)
                yield text_hash(content), item.text
        check_unchanged(key, source.files(), self.inputs)


def read_targets(work: WorkFolder) -> list[tuple[int, str]]:
    """Read the hash and the text of each target, sorted by hash."""
    return [(hash_, text) for hash_, text in read_lines(work.targets)]
