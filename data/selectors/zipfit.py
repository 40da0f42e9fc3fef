"""ZIP-FIT: documents that compress well together with targets (arXiv:2410.18194)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from data.selectors.base import SELECTORS, Scorer, SelectorConfig
from settings import UserError

if TYPE_CHECKING:
    from data.selectors.base import Arrays
    from data.selectors.compression.compressors import Compressor


@SELECTORS.register
class ZipFitConfig(SelectorConfig):
    """Scores a document by 1 - the mean normalised compression distance to the targets.

    A long document has the mean of its chunks of up to 16 kB, weighted by their bytes, since deflate finds no match
    that is farther away than 32 kB. `prefilter` and `distilled` estimate scores, and are fitted to the exact scores of
    a sample of the pool, on which the recall of the exact top documents is measured too.
    """

    name: Literal["zipfit"] = "zipfit"
    mode: Literal["exact", "prefilter", "distilled"] = Field(
        "exact",
        description="Which documents are compared with the targets: every one (exact), those that a prefilter lets "
        "through (prefilter), or a sample, to which estimates from n-grams and from three summaries of the targets are "
        "fitted (distilled).",
    )
    compressor: Literal["gzip", "lz4"] = Field(
        "gzip", description="The compressor: that of the paper (gzip), or the faster one of its authors' package (lz4)."
    )
    gzip_level: int = Field(6, le=9, description="Level of gzip, 1 to 9.")
    min_bytes: int = Field(
        200,
        ge=0,
        description="Bytes of the shortest document that is scored, and of the shortest target that is used: short "
        "texts look alike, since the compressor's header is most of their size.",
    )
    max_targets: int = Field(
        0, ge=0, description="Number of targets that documents are compared with, a random subset; 0 means all."
    )
    top_share: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Share of the documents whose exact scores the prefilter finds, but for about one in a hundred: at "
        "least the share that is chosen.",
    )
    sample_bytes: int = Field(
        4_000_000,
        ge=1,
        description="Bytes of the sample of the pool that is scored exactly, by which estimates are fitted and "
        "measured: two thousand documents are enough.",
    )

    @model_validator(mode="after")
    def _check_level(self) -> Self:
        if self.gzip_level < 1:
            raise ValueError(
                f"gzip_level = {self.gzip_level} must be 1 to 9: level 0 stores and compresses nothing, so that the "
                "distance would depend on lengths alone"
            )
        return self

    @property
    def uses_targets(self) -> bool:
        return True

    @property
    def pool_sample_bytes(self) -> int:
        return self.sample_bytes if self.mode != "exact" or self.max_targets else 0

    @property
    def seconds_per_mb(self) -> float:
        """The estimated seconds for a hundred targets (benchmarks/zipfit.md)."""
        exact = 3.3 if self.compressor == "gzip" else 0.4
        return {"exact": exact, "prefilter": 0.1 + exact * (self.top_share + 0.05), "distilled": 0.1 + exact * 0.05}[
            self.mode
        ]

    def fit(self, targets: Sequence[str], pool: Sequence[str]) -> Arrays:
        """Return the model of the estimates, the prefilter, and how well they agree with exact scores."""
        from data.selectors.compression.fit import fit_to_sample

        contents = [content for content in map(str.encode, pool) if len(content) >= self.min_bytes]
        if not self.pool_sample_bytes:
            return {}
        if not contents:
            raise UserError(f"zipfit: no document of the pool has min_bytes = {self.min_bytes:,}: lower it")
        return fit_to_sample(
            self._compressor(),
            self._long_enough(targets),
            contents,
            num_used=len(self._used(targets)),
            estimates=self.mode != "exact",
            top_share=self.top_share if self.mode == "prefilter" else None,
        )

    def prepare(self, targets: Sequence[str], fitted: Arrays) -> Scorer:
        from data.selectors.compression.scorer import ZipFitScorer

        return ZipFitScorer(self._compressor(), self._used(targets), fitted, min_bytes=self.min_bytes)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        few = {"top_share": 0.2, "sample_bytes": 1_000_000}
        return (
            cls(),
            cls(compressor="lz4", max_targets=1),
            cls.model_validate({"mode": "prefilter", **few}),
            cls.model_validate({"mode": "distilled", "gzip_level": 1, **few}),
        )

    def _compressor(self) -> Compressor:
        from data.selectors.compression.compressors import Gzip, Lz4

        return Gzip(self.gzip_level) if self.compressor == "gzip" else Lz4()

    def _long_enough(self, targets: Sequence[str]) -> list[bytes]:
        """Return the targets of at least min_bytes. Raises UserError if there is none."""
        contents = [content for content in map(str.encode, targets) if len(content) >= self.min_bytes]
        if not contents:
            raise UserError(f"zipfit: no target has min_bytes = {self.min_bytes:,}: lower it, or name longer targets")
        return contents

    def _used(self, targets: Sequence[str]) -> list[bytes]:
        """Return the first targets: a build sorts them by their hashes, so that these are a random subset."""
        return self._long_enough(targets)[: self.max_targets or None]
