"""The nodes on which a job must not start again, because they have failed: as long as enough others are left."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def still_excluded(nodes: Sequence[str], *, usable: Collection[str], fewest: int) -> list[str]:
    """Returns those of `nodes` that stay excluded, each once.

    If all did, the job might wait for nodes that do not come. So while fewer than `fewest` of the `usable` nodes
    are left, the node that failed longest ago is let back in. It may have been repaired; if it has not, its check finds
    out, or Slurm starts nothing there.

    `nodes`: the oldest first; one that has failed again counts from its last failure. `usable`: the nodes on which
    Slurm starts jobs; if it names none, all stay excluded.
    """
    kept = list(dict.fromkeys(reversed(nodes)))[::-1]
    while usable and kept and len(set(usable) - set(kept)) < fewest:
        kept.pop(0)
    return kept
