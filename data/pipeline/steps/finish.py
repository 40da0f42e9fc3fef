"""The last stage: writes dataset.json for each source and build.json, neither of which depends on the time."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data.config import BAD_DOCUMENTS, DataConfig
from data.pipeline.plan import Plan
from data.pipeline.report import BUILD_FILE, BadFile, BuildFile, SourceReport
from data.pipeline.work_folder import WorkFolder, read_report
from data.shards.dataset_json import FILE_NAME, SPLITS, DatasetInfo, SelectionInfo, ShardFile, SplitInfo, TokenizerInfo
from data.tokenizer import end_of_text_id, load_tokenizer, token_bytes, vocab_size
from settings.files import file_sha256, write_json

STAGE = "finish"


class DescribeShards(PipelineStep):  # type: ignore[misc]
    """Adds up the tasks' counts. A source without any document left gets no folder, only a line in the report."""

    type = "writer"
    name = "dataset.json"

    def __init__(self, work: WorkFolder, config: DataConfig, plan: Plan, inputs: dict[str, str]) -> None:
        super().__init__()
        self.work, self.config, self.plan, self.inputs = work, config, plan, inputs

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the descriptions; yield nothing."""
        tokenizer = self._tokenizer()
        selections: dict[str, SelectionInfo] = {}
        if self.config.select:
            from data.pipeline.selection.record import write_selection_record  # late, since it imports matplotlib

            selections = write_selection_record(self.work, self.config, self.plan, self.inputs)
        reports = {source: self._describe(source, tokenizer, selections.get(source)) for source in self.config.sources}
        build = BuildFile(recipe=self.config.recipe(), inputs=self.inputs, sources=reports)
        write_json(self.work.shards / BUILD_FILE, build.to_plain())
        yield from ()

    def _tokenizer(self) -> TokenizerInfo:
        path = self.work.tokenizer
        tokenizer = load_tokenizer(path)
        return TokenizerInfo(
            path=path.name,
            sha256=file_sha256(path),
            vocab_size=vocab_size(tokenizer),
            eos_id=end_of_text_id(tokenizer, self.config.tokenizer.end_of_text, path),
        )

    def _describe(self, source: str, tokenizer: TokenizerInfo, selection: SelectionInfo | None) -> SourceReport:
        ranks = self.plan.tasks_of(source)
        shards = [read_report(self.work.report("tokens", rank)) for rank in ranks]
        splits = {split: _split_info([shard[split] for shard in shards if shard[split]]) for split in SPLITS}
        report = SourceReport(
            read=self._sum("read", ranks)["documents"],
            read_bytes=self._sum("read", ranks)["bytes"],
            bad=self._sum("bad", ranks),
            bad_files={  # a file that several tasks read is one
                path: BadFile(**file)
                for rank in ranks
                for path, file in read_report(self.work.report("bad_files", rank)).items()
            },
            filtered=self._sum("filtered", ranks),
            duplicates=self._sum("duplicates", ranks) if self.config.compares_documents else {},
            not_selected=self._sum("not_selected", ranks) if self.config.select else {},
            documents={split: splits[split].documents for split in SPLITS},
            tokens={split: splits[split].tokens for split in SPLITS},
        )
        if report.bad:
            with (self.work.shards / f"{source}{BAD_DOCUMENTS}").open("wb") as bad_documents:
                for rank in ranks:
                    with self.work.bad_documents(rank).open("rb") as bad_documents_of_task:
                        shutil.copyfileobj(bad_documents_of_task, bad_documents)
        folder = self.work.shards / source
        if report.is_empty:
            shutil.rmtree(folder, ignore_errors=True)  # an interrupted run of this stage may have made it
            return report
        config = self.config.sources[source]
        info = DatasetInfo(
            source=source,
            licence=config.licence,
            language=config.language,
            tokenizer=tokenizer,
            token_bytes=token_bytes(tokenizer.vocab_size),
            pipeline=self.config.recipe(),
            splits=splits,
            selection=selection,
        )
        write_json(folder / FILE_NAME, info.to_plain())
        return report

    def _sum(self, kind: str, ranks: list[int]) -> dict[str, int]:
        total: Counter[str] = Counter()
        for rank in ranks:
            total.update(read_report(self.work.report(kind, rank)))
        return dict(sorted(total.items()))


def _split_info(shards: list[dict[str, Any]]) -> SplitInfo:
    files = tuple(ShardFile(**shard["file"]) for shard in shards)
    return SplitInfo(
        documents=sum(file.documents for file in files),
        tokens=sum(file.tokens for file in files),
        text_bytes=sum(shard["text_bytes"] for shard in shards),
        files=files,
    )
