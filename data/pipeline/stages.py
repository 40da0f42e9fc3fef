"""The stages of a build, in order, each a datatrove pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from datatrove.pipeline.base import PipelineStep

from data.config import DataConfig
from data.pipeline.plan import Plan
from data.pipeline.progress import StageWork
from data.pipeline.steps.deduplicate import ClusterDuplicates, FindDuplicates, SignDocuments, buckets
from data.pipeline.steps.documents import FilterDocuments, ReadDocuments, ReadSource, WriteDocuments
from data.pipeline.steps.finish import DescribeShards
from data.pipeline.steps.tokenize_documents import TokenizeDocuments, TrainTokenizer
from data.pipeline.work_folder import WorkFolder

_ONE_TASK_BYTES = 2**30  # up to which the pairs of all buckets are found by one task


@dataclass(frozen=True)
class Stage(StageWork):
    """A stage with its pipeline."""

    pipeline: tuple[PipelineStep, ...]


def make_stages(config: DataConfig, plan: Plan, work: WorkFolder, inputs: dict[str, str]) -> list[Stage]:
    """Everything a build does. The seconds per MB are of benchmarks/data_build.md."""
    tasks, size = len(plan.tasks), plan.bytes
    filters = {
        name: tuple(filter_.build() for filter_ in (config.filters if source.filters is None else source.filters))
        for name, source in config.sources.items()
    }
    trained = min(size, config.tokenizer.train_bytes)
    read = ReadSource(
        work,
        plan.tasks,
        config.sources,
        on_bad_document=config.on_bad_document,
        max_document_bytes=config.max_document_bytes,
    )
    write = WriteDocuments(work, plan.tasks, config, sample=0.0 if config.tokenizer.path else trained / max(size, 1))
    sign = (SignDocuments(work, config.deduplicate),) if config.deduplicate.any else ()
    filter_ = FilterDocuments(work, plan.tasks, filters)
    cost = 0.02 + 0.1 * max(map(len, filters.values())) + 0.15 * config.deduplicate.minhash
    stages = [Stage("documents", "reading and filtering", tasks, size, cost, (read, filter_, *sign, write))]
    if config.deduplicate.any:
        finders = len(buckets(config.deduplicate)) if size > _ONE_TASK_BYTES else 1
        find = FindDuplicates(work, config.deduplicate, tasks=tasks)
        cluster = ClusterDuplicates(work, config.deduplicate, tasks=tasks)
        stages.append(Stage("pairs", "finding duplicates", finders, size, 0.003, (find,)))
        stages.append(Stage("clusters", "clustering duplicates", 1, size, 0.001, (cluster,)))
    if not config.tokenizer.path:
        train = TrainTokenizer(work, config, tasks=tasks)
        stages.append(Stage("tokenizer", "training the tokenizer", 1, trained, 0.3, (train,)))
    encode = (ReadDocuments(work, deduplicated=config.deduplicate.any), TokenizeDocuments(work, config, plan.tasks))
    stages.append(Stage("tokens", "writing shards", tasks, size, 0.15, encode))
    stages.append(Stage("finish", "describing shards", 1, size, 0.001, (DescribeShards(work, config, plan, inputs),)))
    return stages
