"""The hashes of what a run reads besides its config: recorded at its first start, so that a resume notices changes."""

from __future__ import annotations

from pydantic import Field

from settings import Settings


class Inputs(Settings):
    """The SHA-256 of each input; all are empty if nothing was recorded."""

    tokenizer: str = ""
    sources: dict[str, str] = Field({})
    registered_forecast: str = Field("", description="the forecast that was registered before the run, if there is one")
    lr_table: dict[int, str] = Field({}, description="keyed by how many values are hashed, so that values may be added")

    def joined(self, later: Inputs) -> Inputs:
        """Returns these inputs, with those of `later` that are not among them."""
        return Inputs(
            tokenizer=self.tokenizer or later.tokenizer,
            sources=later.sources | self.sources,
            registered_forecast=self.registered_forecast or later.registered_forecast,
            lr_table=later.lr_table | self.lr_table,
        )

    def differences(self, here: Inputs, *, all_sources: bool) -> list[str]:
        """Returns a line for each input whose content differs `here`.

        `all_sources`: a mixture has drawn from all sources that there were, so none may be added or removed.
        """
        if not self.sources:
            return []
        old, new = self.sources, here.sources
        sources = sorted(old | new) if all_sources else [name for name in old if name in new]
        lengths = [count for count in self.lr_table if count in here.lr_table]
        pairs = {"the tokenizer": (self.tokenizer, here.tokenizer)}
        pairs["the registered forecast (train.forecast)"] = (self.registered_forecast, here.registered_forecast)
        pairs |= {f'source "{name}"': (old.get(name, ""), new.get(name, "")) for name in sources}
        pairs |= {f"schedule.file, {count} values": (self.lr_table[count], here.lr_table[count]) for count in lengths}
        return [
            f"{name}: {_short_hash(recorded)} there, {_short_hash(found)} here"
            for name, (recorded, found) in pairs.items()
            if recorded != found
        ]


def _short_hash(sha256: str) -> str:
    return f"SHA-256 {sha256[:16]}…" if sha256 else "absent"
