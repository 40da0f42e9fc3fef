"""The `data` section of a config: how text becomes shards, and how training draws from the shards.

One section serves `lehr data build` and `lehr train`. `DataConfig.recipe()` has the fields that decide the bytes of the
shards; all others (workers, executor, mixture, ...) may change without a new build.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from data.filters import FILTERS, FilterConfig
from data.sources import SOURCES, SourceConfig
from settings import Settings

_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

# The fields that decide how a build runs or how its shards are used, but not their bytes.
_NOT_IN_RECIPE = frozenset(
    {"shards", "executor", "workers", "slurm", "mixture", "stages", "document_masking", "verify_hashes"}
    | {"prefetch_batches"}
)


class TokenizerConfig(Settings):
    """The tokenizer: a local `tokenizer.json`, or a byte-level BPE trained on the documents that pass the filters."""

    path: Path | None = Field(None, description="a tokenizer.json to take; none: train one")
    vocab_size: int = Field(32768, ge=257, le=2**31, description="entries of the tokenizer to train, the end token too")
    train_bytes: int = Field(
        100_000_000, ge=1, description="train on at most this much text (UTF-8), a share of each source"
    )
    end_of_text: str = Field("", description="the token after each document; empty: the tokenizer's own")


class DeduplicateConfig(Settings):
    """Deduplication over all sources, which keeps the first document of each cluster, sources in the config's order.

    Near duplicates are found by MinHash (Broder 1997). The defaults, 5-grams of words and 14 buckets of 8 hashes, find
    pairs of Jaccard similarity 0.8 with probability 0.92, as in FineWeb (arXiv:2406.17557, section 3.4).
    """

    exact: bool = True
    minhash: bool = False
    ngram_words: int = Field(5, ge=1)
    buckets: int = Field(14, ge=1)
    hashes_per_bucket: int = Field(8, ge=1)

    @property
    def any(self) -> bool:
        """Whether duplicates are dropped at all."""
        return self.exact or self.minhash


class SlurmConfig(Settings):
    """The sbatch options of a build's stages if `data.executor` is slurm."""

    partition: str = ""
    time: str = "04:00:00"
    qos: str = "normal"
    cpus_per_task: int = Field(1, ge=1)
    mem_per_cpu_gb: int = Field(4, ge=1)
    max_array_size: int = Field(1001, ge=1)
    env_command: str = Field("", description="a line of shell that makes `lehr` importable; empty: this interpreter's")
    sbatch: dict[str, str] = Field({}, description="more sbatch options, without their dashes")
    poll_seconds: float = Field(10.0, gt=0, description="how often the submitted steps are looked at")


class MixtureStageConfig(Settings):
    """A stage of the mixture: from step `from_step` on, sources are drawn with these weights."""

    from_step: int = Field(ge=0)
    mixture: dict[str, float]


class DataConfig(Settings):
    """The `data` section."""

    shards: Path = Field(description="the folder that holds the shards, or will")

    # Building.
    sources: dict[str, Annotated[SourceConfig, SOURCES.field]] = Field({}, description="text, by a name of your choice")
    filters: tuple[Annotated[FilterConfig, FILTERS.field], ...] = Field(
        (), description="in the order in which they are applied; a source may name its own instead"
    )
    deduplicate: DeduplicateConfig = DeduplicateConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    held_out_fraction: float = Field(
        0.01, ge=0, le=0.5, description="of the documents, chosen by a hash of their text, so that it never moves"
    )
    on_bad_document: Literal["skip", "fail"] = "skip"
    max_document_bytes: int = Field(16 * 2**20, ge=1, description="a longer document is a bad one")
    shuffle_documents: bool = Field(True, description="within each shard file")
    shuffle_seed: int = Field(0, ge=0, lt=2**32)
    task_bytes: int = Field(
        0,
        ge=0,
        description="about how much input a task reads, and so the size of shard files; 0: by the input's size",
    )
    executor: Literal["local", "slurm"] = "local"
    workers: int = Field(0, ge=0, description="tasks at a time; 0: one per core (local), no limit (slurm)")
    slurm: SlurmConfig = SlurmConfig()

    # Training.
    mixture: dict[str, float] = Field({}, description="weights of the sources; empty: in proportion to their tokens")
    stages: tuple[MixtureStageConfig, ...] = Field((), description="later weights, each until the next from_step")
    document_masking: bool = Field(True, description="tokens attend only to their own document")
    verify_hashes: bool = Field(True, description="compare the shards with dataset.json's hashes before training")
    prefetch_batches: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        for name in self.sources:
            if not _SOURCE_NAME.fullmatch(name):
                raise ValueError(
                    f'sources: "{name}" cannot be a folder\'s name; use letters, digits, "_", "-", "." '
                    "and begin with a letter or digit"
                )
        for key, mixture in self.mixtures().items():
            if any(weight < 0 for weight in mixture.values()) or (mixture and not sum(mixture.values()) > 0):
                raise ValueError(f"{key.removeprefix('data.')} = {mixture}: weights must be at least 0 and not all 0")
        starts = [stage.from_step for stage in self.stages]
        if any(later <= earlier for earlier, later in itertools.pairwise(starts)):
            raise ValueError(f"stages: from_step must grow from stage to stage, not {starts}")
        return self

    def mixtures(self) -> dict[str, dict[str, float]]:
        """Return every mixture by its key in the config: the first one, then that of each stage."""
        stages = {f"data.stages.{number}.mixture": stage.mixture for number, stage in enumerate(self.stages)}
        return {"data.mixture": self.mixture, **stages}

    def held_out_fraction_of(self, source: str) -> float:
        """Return the source's own held-out fraction, or the one for all sources."""
        own = self.sources[source].held_out_fraction
        return self.held_out_fraction if own is None else own

    def recipe(self) -> dict[str, Any]:
        """Return the fields that decide the bytes of the shards: two configs of one recipe build the same shards."""
        return {key: value for key, value in self.to_plain().items() if key not in _NOT_IN_RECIPE}
