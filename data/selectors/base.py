"""The contract of a selector: it scores documents one by one, and the build chooses among them by their scores.

A build calls `check` before any work, `fit` once, and `prepare` once in each process that scores. The scores of a
document may depend on its text, the targets and what was fitted, and on nothing else: not on the batch, the process or
the order. So the same input gives the same choice, whatever the number of workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from pydantic import Field

from settings import Registry, Settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    UInt64s: TypeAlias = npt.NDArray[np.uint64]
    Int64s: TypeAlias = npt.NDArray[np.int64]
    Float64s: TypeAlias = npt.NDArray[np.float64]
    Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


class Scorer(ABC):
    """A selector at work in one process."""

    @abstractmethod
    def score(self, texts: Sequence[str], hashes: UInt64s) -> Float64s:
        """Return a score for each text, [texts]; higher is better.

        `hashes` [texts] are the documents' text hashes (data/pipeline/steps/hashing.py). NaN means that the document
        cannot be scored, such as one that is too short: it is never chosen, and counted.
        """

    def describe(self) -> Mapping[str, Any]:
        """Return facts for the report that JSON can hold, such as the measured recall of an approximation."""
        return {}


class SelectorConfig(Settings):
    """The config of a selector. Only `fit` and `prepare` import what takes long, so that reading a config stays quick.

    A selector that looks at target documents overrides `uses_targets`, and one that learns from a sample of the pool
    (the documents to choose from) overrides `pool_sample_bytes`.
    """

    name: str = Field(description="Name of the selector.")

    @property
    def uses_targets(self) -> bool:
        """Whether the selector compares documents with targets; a config without `data.select.target` is refused."""
        return False

    @property
    def pool_sample_bytes(self) -> int:
        """Bytes of text, about, of the random sample of the pool that `fit` receives; 0 means that it needs none."""
        return 0

    @property
    def seconds_per_mb(self) -> float:
        """The estimated seconds of a core for a MB of text; a build's remaining time is computed from it."""
        return 0.1

    @property
    def parts(self) -> tuple[SelectorConfig, ...]:
        """The selectors whose scores decide; of several, a document's score is its mean rank in the pool."""
        return (self,)

    @property
    def reference(self) -> SelectorConfig | None:
        """The selector whose choice this one imitates, stratum by stratum; None if it has none."""
        return None

    def strata(self, *, source: int, text_bytes: UInt64s) -> Int64s:
        """Return the stratum of each document, [documents], from the number of its source and its bytes of text.

        Of each stratum, a selector with a reference chooses as much as the reference does.
        """
        raise AssertionError(f"{type(self).__name__} has no strata")

    def files(self) -> Sequence[Path]:
        """Return the files that the selector reads, such as stored scores; their fingerprints are recorded."""
        return ()

    def check(self) -> None:
        """Raise UserError for a mistake that only the machine shows, such as a missing package. It must be quick."""

    def fit(self, targets: Sequence[str], pool: Sequence[str]) -> Arrays:
        """Return what is learned before documents are scored, as arrays by name; one task of the build calls it.

        `targets` are the texts of the target documents in a fixed order (empty without targets), and `pool` is the
        sample of the pool, in random order. Each array is written to a file, which scoring processes map into memory,
        so a large table costs them no memory of their own.
        """
        return {}

    def prepare(self, targets: Sequence[str], fitted: Arrays) -> Scorer:
        """Return the scorer, given the same targets as `fit` and what it returned."""
        raise AssertionError(f"{type(self).__name__} has no prepare")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return the configs that the contract tests build. Override it if a field has no default."""
        return (cls.model_validate({}),)


SELECTORS = Registry("selector", room="data.selectors", base=SelectorConfig)
