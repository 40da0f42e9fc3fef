"""What a run reads besides its config, by hash: recorded at its first start, so that a resume notices other content."""

from __future__ import annotations

from pydantic import Field

from settings import Settings


class Inputs(Settings):
    """SHA-256 of each thing; all empty: nothing was recorded."""

    tokenizer: str = ""
    sources: dict[str, str] = Field({})
    lr_table: dict[int, str] = Field({}, description="by how many values are hashed, so that values may be added")

    def joined(self, later: Inputs) -> Inputs:
        """These, and of what came later what is not among them."""
        return Inputs(
            tokenizer=self.tokenizer or later.tokenizer,
            sources=later.sources | self.sources,
            lr_table=later.lr_table | self.lr_table,
        )

    def differences(self, here: Inputs, *, all_sources: bool) -> list[str]:
        """A line for each thing whose content is another `here`.

        `all_sources`: a mixture has drawn from all sources that there were, so none may be new or gone.
        """
        if not self.sources:
            return []
        then, now = self.sources, here.sources
        sources = sorted(then | now) if all_sources else [name for name in then if name in now]
        lengths = [count for count in self.lr_table if count in here.lr_table]
        pairs = {"the tokenizer": (self.tokenizer, here.tokenizer)}
        pairs |= {f'source "{name}"': (then.get(name, ""), now.get(name, "")) for name in sources}
        pairs |= {f"schedule.file, {count} values": (self.lr_table[count], here.lr_table[count]) for count in lengths}
        return [
            f"{what}: {_shown(recorded)} there, {_shown(found)} here"
            for what, (recorded, found) in pairs.items()
            if recorded != found
        ]


def _shown(sha256: str) -> str:
    return f"SHA-256 {sha256[:16]}…" if sha256 else "absent"
