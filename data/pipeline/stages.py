"""The stages of a build, in order, each a datatrove pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from datatrove.pipeline.base import PipelineStep

from data.config import DataConfig
from data.pipeline.plan import Plan
from data.pipeline.progress import StageCost
from data.pipeline.selection.choose_documents import ChooseDocuments
from data.pipeline.selection.held_out_signatures import SignHeldOut
from data.pipeline.selection.score_documents import FitSelectors, ScoreDocuments, score_columns
from data.pipeline.selection.summarize_choice import SummarizeChoice
from data.pipeline.selection.targets import PrepareTargets
from data.pipeline.steps.deduplicate import ClusterDuplicates, ComputeSignatures, FindDuplicates, buckets
from data.pipeline.steps.document_files import ReadDocuments, WriteDocuments
from data.pipeline.steps.filter_documents import FilterDocuments
from data.pipeline.steps.finish import DescribeShards
from data.pipeline.steps.read_source import ReadSource
from data.pipeline.steps.tokenize_documents import TokenizeDocuments, TrainTokenizer
from data.pipeline.work_folder import WorkFolder

_ONE_TASK_BYTES = 2**30  # up to this much text, one task finds the pairs of all buckets


@dataclass(frozen=True)
class BuildStage(StageCost):
    """A stage of a build: tasks that run one pipeline, all complete before the next stage begins."""

    pipeline: tuple[PipelineStep, ...]


def make_stages(config: DataConfig, plan: Plan, work: WorkFolder, inputs: dict[str, str]) -> list[BuildStage]:
    """Return the stages of a build, in order. The seconds per MB are measured in benchmarks/data_build.md."""
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
        inputs,
        on_bad_document=config.on_bad_document,
        on_bad_file=config.on_bad_file,
        max_document_bytes=config.max_document_bytes,
    )
    sample_fraction = 0.0 if config.tokenizer.path else trained / max(size, 1)
    columns = score_columns(config.select.selector) if config.select else ()
    pool_sample_bytes = max((selector.pool_sample_bytes for selector in columns), default=0)
    write = WriteDocuments(
        work,
        plan.tasks,
        config,
        sample_fraction=sample_fraction,
        pool_sample_fraction=min(1.0, pool_sample_bytes / max(size, 1)),
    )
    deduplicated = [rank for rank, task in enumerate(plan.tasks) if config.sources[task.source].deduplicate]
    sign = (ComputeSignatures(work, config.deduplicate, tasks=deduplicated),) * config.compares_documents
    sign_held_out = (SignHeldOut(work, plan.tasks, config),) if config.select else ()
    filter_ = FilterDocuments(work, plan.tasks, filters)
    cost = 0.02 + 0.1 * max(map(len, filters.values())) + 0.15 * config.deduplicate.minhash
    stages = [
        BuildStage(
            "documents", "reading and filtering", tasks, size, cost, (read, filter_, *sign, *sign_held_out, write)
        )
    ]
    if config.drops_duplicates:
        finders = len(buckets(config.deduplicate)) if size > _ONE_TASK_BYTES else 1
        find = FindDuplicates(work, config.deduplicate, tasks=deduplicated)
        stages.append(BuildStage("pairs", "finding duplicates", finders, size, 0.003, (find,)))
    if config.compares_documents:
        compared = buckets(config.deduplicate) if config.drops_duplicates else []
        fractions = [config.held_out_fraction_of(task.source) for task in plan.tasks]
        cluster = ClusterDuplicates(work, compared, fractions=fractions)
        stages.append(BuildStage("clusters", "clustering duplicates", 1, size, 0.001, (cluster,)))
    if not config.tokenizer.path:
        train = TrainTokenizer(work, config, tasks=tasks)
        stages.append(BuildStage("tokenizer", "training the tokenizer", 1, trained, 0.3, (train,)))
    if config.select:
        prepare, fit = PrepareTargets(work, config, plan, inputs), FitSelectors(work, plan.tasks, config)
        score, choose = ScoreDocuments(work, plan.tasks, config), ChooseDocuments(work, plan.tasks, config)
        cost = sum(selector.seconds_per_mb for selector in columns) + 0.15 * config.select.drop_near_held_out
        stages.append(BuildStage("targets", "preparing targets", 1, size, 0.001, (prepare,)))
        stages.append(BuildStage("fit", "fitting the selector", 1, min(size, pool_sample_bytes), 0.5, (fit,)))
        stages.append(BuildStage("scores", "scoring documents", tasks, size, cost, (score,)))
        stages.append(BuildStage("choice", "choosing documents", 1, size, 0.001, (choose,)))
        summarize = SummarizeChoice(work, plan.tasks, config)
        stages.append(BuildStage("record", "recording the choice", tasks, size, 0.01, (summarize,)))
    excluded = [work.dropped] * config.compares_documents + [work.not_selected] * bool(config.select)
    encode = (ReadDocuments(work, excluded=excluded), TokenizeDocuments(work, config, plan.tasks))
    stages.append(BuildStage("tokens", "writing shards", tasks, size, 0.15, encode))
    stages.append(
        BuildStage("finish", "describing shards", 1, size, 0.001, (DescribeShards(work, config, plan, inputs),))
    )
    return stages
