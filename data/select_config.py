"""The `data.select` section of a config: which documents a build chooses from those that deduplication keeps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data.selectors import SELECTORS, SelectorConfig
from data.sources import SOURCES, SourceConfig
from settings import Settings

_AMOUNTS = ("documents", "bytes", "tokens", "share")  # the values of `choose` that need an `amount`


class TargetConfig(Settings):
    """The documents that chosen ones should resemble. They are a split of their own: no shard holds any of them.

    They come from text of its own (`source`), from a source of the pool (`from_source`), or from the config
    (`documents`). Copies and near copies of held-out documents are no targets, and copies of targets leave the pool.
    """

    source: Annotated[SourceConfig, SOURCES.field] | None = Field(
        None, description="Text that only serves as targets, read as a source of data.sources is; no filter is applied."
    )
    from_source: str | None = Field(
        None, description="A source of data.sources, of which a share of the documents that are not held out is taken."
    )
    fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the documents of from_source; a hash of its text decides for each."
    )
    documents: tuple[str, ...] = Field((), description="The texts of the targets themselves.")

    @model_validator(mode="after")
    def _check(self) -> TargetConfig:
        given = [key for key in ("source", "from_source", "documents") if getattr(self, key)]
        if len(given) != 1:
            what = "none is given" if not given else f"{' and '.join(given)} are given"
            raise ValueError(f"needs exactly one of source, from_source and documents; {what}")
        return self


class SelectConfig(Settings):
    """Selection of documents by score, from the pool: those to train on that filters and deduplication keep.

    Held-out documents are split off before, so they are the same with and without a selection.
    """

    selector: Annotated[SelectorConfig, SELECTORS.field] = Field(description="The selector that scores documents.")
    target: TargetConfig | None = Field(None, description="The documents that a selector by similarity compares with.")
    drop_near_held_out: bool = Field(
        True,
        description="Whether near copies of held-out documents leave the pool, found by MinHash with the settings of "
        "data.deduplicate: a selector by similarity looks for just those.",
    )
    choose: Literal["none", "documents", "bytes", "tokens", "share", "threshold"] = Field(
        "none",
        description="What the choice is limited by: a number of documents, of bytes of UTF-8, or of tokens (only with "
        "data.tokenizer.path), a share of the bytes of the pool, or a score (threshold); none writes the scores and "
        "keeps every document of the pool.",
    )
    amount: float | None = Field(
        None, gt=0, description="How many documents, bytes or tokens are chosen at most, or which share of the bytes."
    )
    threshold: float | None = Field(
        None, description="The lowest score that is chosen, or with order lowest the highest."
    )
    order: Literal["highest", "lowest"] = Field("highest", description="Which scores are chosen first.")
    skip: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the pool, in the unit of choose, that is passed over before the first chosen document: "
        "the choice is then a band of scores.",
    )
    per_source: bool = Field(False, description="Whether every source gives the same share of its pool.")
    temperature: float = Field(
        0.0,
        ge=0,
        description="Above 0, documents are drawn without replacement, each in proportion to exp(score / temperature), "
        "by the Gumbel top-k trick (arXiv:1903.06059, section 2.3) as in DSIR.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the draw with a temperature.")

    @model_validator(mode="after")
    def _check(self) -> SelectConfig:
        if (self.amount is not None) != (self.choose in _AMOUNTS):
            verb = "needs an amount" if self.choose in _AMOUNTS else "takes no amount"
            raise ValueError(f"choose = {self.choose} {verb}; an amount goes with {', '.join(_AMOUNTS)}")
        if (self.threshold is not None) != (self.choose == "threshold"):
            raise ValueError("threshold is given with choose = threshold, and only then")
        if self.choose == "share" and self.amount is not None and self.amount > 1:
            raise ValueError(f"amount = {self.amount:g} must be at most 1 with choose = share")
        if self.choose not in ("share", "threshold") and self.amount is not None and self.amount != int(self.amount):
            raise ValueError(f"amount = {self.amount:g} must be a whole number with choose = {self.choose}")
        if self.choose == "threshold" and (self.temperature or self.skip or self.per_source):
            raise ValueError("choose = threshold takes no temperature, skip and per_source: the score alone decides")
        if self.selector.uses_targets and self.target is None:
            raise ValueError(f'selector = {self.selector.name} compares with targets: name them in "target"')
        return self

    @property
    def chooses(self) -> bool:
        """False if scores are only written."""
        return self.choose != "none"

    def input_sources(self) -> dict[str, SourceConfig]:
        """Return the source of the targets, if they have one of their own, by its key in the config."""
        source = self.target.source if self.target else None
        return {"data.select.target.source": source} if source else {}
