"""The choice of the k smallest of scores that are spread over ranks: the same in every layout.

A candidate's key is its score, then its parameter's number in the model, then its position in the full parameter: no
two are equal. The k-th smallest key is found a byte at a time, from the highest (a radix select): in each pass the
ranks count the candidates that still tie by their next byte, and only the counts are summed over the ranks. A score is
a float32 that is not negative, so its bits, read as an integer, have the order of the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_BYTE_VALUES = 256


@dataclass(frozen=True)
class Candidates:
    """The candidates of one parameter on this rank. Their keys are computed anew in each pass, to save memory."""

    parameter: int  # number in the order of the full model
    group: int  # the k smallest are chosen within a group
    counted: bool  # of the ranks that hold the same candidates, one counts them
    scores: Callable[[], Tensor]  # float32 [n]
    positions: Callable[[], Tensor]  # int64 [n]: unique in the full parameter

    def key_byte(self, part: str, shift: int) -> Tensor:
        """Returns the byte of each candidate's key that begins at bit `shift` of a part of the key: [n]."""
        if part == "score":
            bits = self.scores().contiguous().view(torch.int32)
        elif part == "parameter":
            return torch.full_like(self.positions(), self.parameter >> shift & (_BYTE_VALUES - 1))
        else:
            bits = self.positions()
        return bits.bitwise_right_shift(shift).bitwise_and_(_BYTE_VALUES - 1)


def select_smallest(
    candidates: Sequence[Candidates],
    wanted: Tensor,
    *,
    parameters: int,
    largest: int,
    total: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """Returns for each item of `candidates` which of them are chosen: bool [n]. A collective of all ranks.

    `wanted`: how many are chosen in each group, int64 [groups] on the CPU, no more than there are. `parameters`: number
    of parameters of the full model; `largest`: elements of its largest one. `total` sums a tensor over all ranks.
    """
    remaining = wanted.clone()
    tied = [torch.ones_like(part.scores(), dtype=torch.bool) for part in candidates]
    chosen = [torch.zeros_like(each) for each in tied]
    for key_part, shift in _bytes_of_key(parameters, largest):
        counts = torch.zeros(len(wanted), _BYTE_VALUES, dtype=torch.int64)
        for part, ties in zip(candidates, tied, strict=True):
            if part.counted:
                byte = part.key_byte(key_part, shift)[ties]
                counts[part.group] += torch.bincount(byte, minlength=_BYTE_VALUES).cpu()
        counts = total(counts)
        up_to = counts.cumsum(1)
        border = (up_to < remaining[:, None]).sum(1).clamp_(max=_BYTE_VALUES - 1)  # the byte of the k-th smallest
        at_border = counts.gather(1, border[:, None]).squeeze(1)
        remaining -= up_to.gather(1, border[:, None]).squeeze(1) - at_border
        whole = (wanted > 0) & (remaining == at_border)  # all that tie are chosen
        for part, ties, choice in zip(candidates, tied, chosen, strict=True):
            byte = part.key_byte(key_part, shift)
            choice |= ties & (byte < int(border[part.group]))
            ties &= byte == int(border[part.group])
        if bool((whole | (wanted == 0)).all()):
            break
    for part, ties, choice in zip(candidates, tied, chosen, strict=True):
        if whole[part.group]:
            choice |= ties
    return chosen


def _bytes_of_key(parameters: int, largest: int) -> Iterator[tuple[str, int]]:
    """Yields each byte of a key from the highest on: the part of the key, and the bit at which the byte begins."""
    for part, bits in (("score", 32), ("parameter", parameters.bit_length()), ("position", largest.bit_length())):
        for byte in reversed(range(-(-bits // 8))):
            yield part, 8 * byte
