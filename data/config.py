"""The `data` section of a config: how text becomes shards, and how training draws from the shards.

One section serves `lehr data build` and `lehr train`. `DataConfig.recipe()` has the fields that decide the bytes of the
shards; all others (workers, executor, mixture, ...) may change without a new build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from data.filters import FILTERS, FilterConfig
from data.select_config import SelectConfig
from data.sources import SOURCES, SourceConfig
from settings import Settings, may_change, may_move
from settings.errors import nearest

_HOW_BUILT = "it says how shards are built, not what is in them"
BAD_DOCUMENTS = ".bad_documents.jsonl"  # the list of a source's bad documents is SHARDS/SOURCE.bad_documents.jsonl
SELECTION_FOLDER = "selection"  # SHARDS/selection holds the scores and the report
_FILES_OF_SHARDS = frozenset({"build.json", "tokenizer.json"})
_MAX_NAME_LENGTH = 255 - len(BAD_DOCUMENTS)
_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

# The fields that decide how a build runs or how its shards are used, but not their bytes.
_NOT_IN_RECIPE = frozenset(
    {"shards", "executor", "workers", "slurm", "mixture", "document_masking", "verify_hashes"}
    | {"prefetch_batches", "on_bad_file"}
)


class TokenizerConfig(Settings):
    """The tokenizer: a local `tokenizer.json`, or a byte-level BPE trained on the documents that pass the filters."""

    path: Path | None = Field(None, description="A tokenizer.json to use; null means that a tokenizer is trained.")
    vocab_size: int = Field(
        32768, ge=257, le=2**31, description="Entries of the tokenizer that is trained, with the end-of-text token."
    )
    train_bytes: int = Field(
        100_000_000,
        ge=1,
        description="Largest amount of text, in bytes of UTF-8, that the tokenizer is trained on; each source gives "
        "its share.",
    )
    end_of_text: str = Field(
        "", description="The token that ends each document; empty means the one that the tokenizer has for it."
    )


class DeduplicateConfig(Settings):
    """Deduplication over all sources, which keeps the first document of each cluster, sources in the config's order.

    Near duplicates are found by MinHash (Broder 1997). The defaults, 5-grams of words and 14 buckets of 8 hashes, find
    pairs of Jaccard similarity 0.8 with probability 0.92, as in FineWeb (arXiv:2406.17557, section 3.4).
    """

    exact: bool = Field(True, description="Whether documents of the same text are dropped but for the first.")
    minhash: bool = Field(False, description="Whether near duplicates are dropped but for the first, found by MinHash.")
    text: Literal["simplified", "raw"] = Field(
        "simplified",
        description="What MinHash compares: simplified ignores case, punctuation and accents and takes every number "
        "for 0, so that documents which differ in nothing else, such as sums, tables or code, are near duplicates; raw "
        "compares the words as they stand.",
    )
    ngram_words: int = Field(5, ge=1, description="Words of an n-gram; MinHash compares sets of n-grams.")
    buckets: int = Field(
        14, ge=1, description="Buckets of hashes; documents that agree in all hashes of a bucket are near duplicates."
    )
    hashes_per_bucket: int = Field(8, ge=1, description="Hashes of a bucket.")

    @property
    def any(self) -> bool:
        """True if duplicates are dropped from the sources that take part."""
        return self.exact or self.minhash


class SlurmConfig(Settings):
    """The jobs of a build where `data.executor` is slurm. The keys have the names of sbatch's options."""

    model_config = ConfigDict(json_schema_extra=may_change(_HOW_BUILT))

    partition: str = Field("", description="Partition of the cluster; it must be set where the executor is slurm.")
    time: str = Field("04:00:00", description="Time limit of each step, as hours:minutes:seconds.")
    qos: str = Field("normal", description="Quality of service that the jobs ask for.")
    cpus_per_task: int = Field(1, ge=1, description="CPU cores of a task.")
    mem_per_cpu_gb: int = Field(4, ge=1, description="Memory per CPU core, in gigabytes.")
    max_array_size: int = Field(1001, ge=1, description="Largest job array that the cluster takes.")
    env_command: str = Field(
        "", description="A line of shell that makes `lehr` importable in a job; empty means that of this interpreter."
    )
    sbatch: dict[str, str] = Field({}, description="Further options of sbatch, without their dashes.")
    poll_seconds: float = Field(10.0, gt=0, description="Seconds from one look at the submitted steps to the next.")


class DataConfig(Settings):
    """Which text becomes which shards, and how training draws from the shards."""

    shards: Path = Field(
        description="Folder of the shards: `lehr data build` writes it, `lehr train` reads it.",
        json_schema_extra=may_move("the shards have the same hashes elsewhere"),
    )

    # Building.
    sources: dict[str, Annotated[SourceConfig, SOURCES.field]] = Field(
        {}, description="Where the text comes from, by a name that you choose for each source."
    )
    filters: tuple[Annotated[FilterConfig, FILTERS.field], ...] = Field(
        (), description="Filters in the order in which they are applied; a source may name its own instead."
    )
    deduplicate: DeduplicateConfig = Field(DeduplicateConfig(), description="Which duplicates are dropped.")
    select: SelectConfig | None = Field(
        None, description="How documents are chosen by score, after deduplication; null keeps all of them."
    )
    tokenizer: TokenizerConfig = Field(TokenizerConfig(), description="The tokenizer to use or to train.")
    held_out_fraction: float = Field(
        0.01,
        ge=0,
        le=0.5,
        description="Share of the documents that are held out for evaluation; a hash of its text decides for each.",
    )
    on_bad_document: Literal["skip", "fail"] = Field(
        "skip", description="What a document that cannot be read does: it is skipped and counted, or it ends the build."
    )
    on_bad_file: Literal["skip", "fail"] = Field(
        "fail",
        description="What a file does that cannot be read to its end: it ends the build, or only its documents before "
        "the damage are taken (skip).",
        json_schema_extra=may_change("it says whether a build ends, not what is in its shards"),
    )
    max_document_bytes: int = Field(
        16 * 2**20, ge=1, description="Bytes of the longest document that is taken; a longer one is a bad document."
    )
    shuffle_documents: bool = Field(True, description="Whether documents are shuffled within each shard file.")
    shuffle_seed: int = Field(0, ge=0, lt=2**32, description="Seed of that shuffle.")
    task_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of input, about, that a task reads, and so the size of a shard file; 0 means that it "
        "follows from the size of the input.",
    )
    executor: Literal["local", "slurm"] = Field(
        "local",
        description="Where tasks of a build run: on this machine (local) or as jobs of a cluster (slurm).",
        json_schema_extra=may_change(_HOW_BUILT),
    )
    workers: int = Field(
        0,
        ge=0,
        description="Tasks that run at a time; 0 means one per core with the local executor, and no limit with slurm.",
        json_schema_extra=may_change(_HOW_BUILT),
    )
    slurm: SlurmConfig = Field(SlurmConfig(), description="How jobs are submitted where the executor is slurm.")

    # Training.
    mixture: dict[str, float] = Field(
        {}, description="Weight of each source; empty means that sources weigh as much as they have tokens."
    )
    document_masking: bool = Field(True, description="Whether tokens attend to their own document only.")
    verify_hashes: bool = Field(
        True,
        description="Whether the shards are compared with the hashes in dataset.json before training.",
        json_schema_extra=may_change("it is a guard"),
    )
    prefetch_batches: int = Field(
        4, ge=1, description="Batches that are read ahead.", json_schema_extra=may_change("it changes the speed")
    )

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        for name in self.sources:
            if not _SOURCE_NAME.fullmatch(name):
                raise ValueError(
                    f'sources: "{name}" cannot be a folder\'s name; use letters, digits, "_", "-", "." '
                    "and begin with a letter or digit"
                )
            if name in _FILES_OF_SHARDS or name.endswith(BAD_DOCUMENTS) or len(name) > _MAX_NAME_LENGTH:
                raise ValueError(
                    f'sources: "{name}" cannot be a folder of shards: a name has at most {_MAX_NAME_LENGTH} characters '
                    f"and is not that of a file there ({', '.join(sorted(_FILES_OF_SHARDS))}, *{BAD_DOCUMENTS})"
                )
        if self.select:
            self._check_selection(self.select)
        for key, mixture in self.mixtures().items():
            if any(weight < 0 for weight in mixture.values()) or (mixture and not sum(mixture.values()) > 0):
                raise ValueError(f"{key.removeprefix('data.')} = {mixture}: weights must be at least 0 and not all 0")
        return self

    def _check_selection(self, select: SelectConfig) -> None:
        target = select.target.from_source if select.target else None
        if target and target not in self.sources:
            raise ValueError(
                f'select.target.from_source: no source is called "{target}"{nearest(target, self.sources)}'
            )
        if select.choose == "tokens" and not self.tokenizer.path:
            raise ValueError(
                "select.choose = tokens needs tokenizer.path: a tokenizer that is trained is not known when documents "
                "are scored; choose by bytes, or name a tokenizer"
            )
        if SELECTION_FOLDER in self.sources:
            raise ValueError(
                f'sources: "{SELECTION_FOLDER}" is the folder of the selection\'s record; take another name'
            )

    def input_sources(self) -> dict[str, SourceConfig]:
        """Return everything that a build reads text from, by its key in the config."""
        sources = {f"data.sources.{name}": source for name, source in self.sources.items()}
        return sources | (self.select.input_sources() if self.select else {})

    def mixtures(self) -> dict[str, dict[str, float]]:
        """Return every mixture that training draws with, by its key in the config."""
        return {"data.mixture": self.mixture}

    def held_out_fraction_of(self, source: str) -> float:
        """Return the source's own held-out fraction, or the one for all sources."""
        own = self.sources[source].held_out_fraction
        return self.held_out_fraction if own is None else own

    @property
    def drops_duplicates(self) -> bool:
        """True if duplicates are dropped from any source."""
        return self.deduplicate.any and any(source.deduplicate for source in self.sources.values())

    @property
    def compares_documents(self) -> bool:
        """True if duplicates or copies of held-out texts are dropped, which takes a comparison of documents."""
        return self.drops_duplicates or len(set(map(self.held_out_fraction_of, self.sources))) > 1

    def recipe(self) -> dict[str, Any]:
        """Return the fields that decide the bytes of the shards: two configs of one recipe build the same shards."""
        return {key: value for key, value in self.to_plain().items() if key not in _NOT_IN_RECIPE}
