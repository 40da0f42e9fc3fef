"""The drops of a schedule's lr, gathered into few groups: the double sum of a kernel law becomes a small table.

A kernel law sums, over all earlier steps k where the lr changed, (lr_{k-1} - lr_k) times a kernel of the clock that ran
between k and t: n^2 / 2 kernels for n steps. Here neighbouring drops form a group, spread evenly over the clock it
covers, and the kernel's mean over a group is exact (its integral is known in closed form). 72,000 steps become some two
hundred groups, and the cost is (losses x groups) instead of n^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from laws.curve import Floats, Ints, LrCurve

SHARE_OF_PEAK = 0.01  # the lr of a group changes by at most this share of the peak,
SHARE_OF_LR = 0.1  # and of itself, down to
FLOOR_OF_PEAK = 0.03
ROUNDING_OF_PEAK = 1e-10  # a change this small is none
SMALLEST_OF_PEAK = 1e-4  # an lr of 0 has no power below 0


@dataclass(frozen=True)
class LrDrops:
    """The lr drops of g groups (negative where the lr rises), the lr reached, and the steps covered."""

    first_g: Ints  # first and last 0-based step
    last_g: Ints
    drop_g: Floats
    lr_g: Floats  # weighted by the size of the drops
    start_g: Floats  # in steps: a drop at step k covers k - 1/2 to k + 1/2; a single one lies at k
    end_g: Floats

    def of(self, level_n: Floats) -> Floats:
        """Returns the drop of another quantity over each group [g]; the quantity is 0 before the first step."""
        before_g = np.where(self.first_g > 0, level_n[np.maximum(self.first_g - 1, 0)], 0.0)
        drop_g: Floats = before_g - level_n[self.last_g]
        return drop_g


def group_lr_drops(schedule: LrCurve) -> LrDrops:
    """Returns the groups of a schedule, warm-up included; before the first step the lr is 0."""
    lr_n, peak = schedule.lr, schedule.peak
    drop_n = -np.diff(lr_n, prepend=0.0)
    share_n = drop_n / peak
    (steps,) = np.nonzero(np.abs(share_n) > ROUNDING_OF_PEAK)
    starts = np.nonzero(np.diff(_group_numbers(share_n[steps], lr_n[steps] / peak), prepend=-1))[0]
    size_k = np.abs(share_n[steps])
    mean_lr_g = np.add.reduceat(size_k * lr_n[steps], starts) / np.add.reduceat(size_k, starts)
    first_g, last_g = steps[starts], steps[np.append(starts[1:], steps.size) - 1]
    half_g = np.where(first_g == last_g, 0.0, 0.5)
    return LrDrops(
        first_g=first_g,
        last_g=last_g,
        drop_g=np.add.reduceat(drop_n[steps], starts),
        lr_g=np.maximum(mean_lr_g, SMALLEST_OF_PEAK * peak),
        start_g=first_g.astype(np.float64) - half_g,
        end_g=last_g.astype(np.float64) + half_g,
    )


def _group_numbers(drop_k: Floats, lr_k: Floats) -> Ints:
    """Returns the group of each changed step [k]: a new one begins after enough change, at jumps and at turns.

    Drops and lr are in units of the peak: a product of very small ones would be 0.
    """
    allowed_k = np.minimum(SHARE_OF_PEAK, SHARE_OF_LR * np.maximum(lr_k, FLOOR_OF_PEAK))
    used_k = np.abs(drop_k) / allowed_k
    jump_k = used_k > 0.5  # a group of its own
    new_k = np.diff(np.sign(drop_k), prepend=drop_k[0]) != 0
    new_k |= jump_k
    new_k[1:] |= jump_k[:-1]
    # Within a group the drops should be about equal: a slope that doubles splits it.
    used_k[1:] += np.where(new_k[1:], 0.0, np.abs(np.diff(np.log2(np.abs(drop_k)))))
    numbers = np.floor(np.cumsum(np.where(jump_k, 0.0, used_k))) + np.cumsum(new_k)
    group_k: Ints = numbers.astype(np.int64)
    return group_k


def elapsed(clock_n: Floats, edges_g: Floats, steps: Ints) -> Floats:
    """Returns how much of a running clock lies from each edge (in steps) to each evaluation point [k, g].

    It is 0 for edges yet to come.

    `clock_n` [n]: the clock after every step (a running sum, starting at 0 before the first step); steps [k]: counts of
    steps taken.
    """
    before_g = np.interp(edges_g, np.arange(clock_n.size + 1.0), np.concatenate([[0.0], clock_n]))
    since_kg: Floats = np.maximum(clock_n[steps - 1][:, None] - before_g, 0.0)
    return since_kg


def power_integral(x: Floats, beta: float) -> tuple[Floats, Floats, Floats]:
    """Returns the integral of G(x) = 1 - (1 + x)^-beta from 0 to x, its derivative by beta, and G(x)."""
    grown = np.log1p(x)
    rest = np.exp(-beta * grown)
    exponent = 1 - beta
    if abs(exponent) < 1e-4:  # the limit, to second order in the exponent
        total = grown + exponent * grown**2 / 2
        by_beta = grown**2 / 2 + exponent * grown**3 / 3
    else:
        raised = (1 + x) * rest
        total = (raised - 1) / exponent
        by_beta = (grown * raised - total) / exponent
    return x - total, by_beta, 1 - rest


def mean_kernel_value(x_kg: Floats, y_kg: Floats, width_g: Floats, beta: float) -> Floats:
    """Returns the mean of `mean_kernel` without derivatives, at a fraction of the cost; beta must not be 1."""
    exponent = 1 - beta
    (jumps,) = np.nonzero(width_g == 0)
    divisor_g = np.where(width_g == 0, 1.0, width_g)
    mean: Floats = (x_kg - y_kg - ((1 + x_kg) ** exponent - (1 + y_kg) ** exponent) / exponent) / divisor_g
    if jumps.size:
        mean[:, jumps] = 1 - (1 + x_kg[:, jumps]) ** -beta
    return mean


def mean_kernel(x_kg: Floats, y_kg: Floats, width_g: Floats, beta: float) -> tuple[Floats, Floats, Floats]:
    """Returns the mean of G over each group, and its derivatives by beta and the log of the clock's scale, all [k, g].

    x and y are the clock from the start and the end of a group to each point, 0 before; `width_g` from start to end.
    A group of width 0 (a jump) has the kernel itself.
    """
    upper, upper_by_beta, upper_kernel = power_integral(x_kg, beta)
    lower, lower_by_beta, lower_kernel = power_integral(y_kg, beta)
    (jumps,) = np.nonzero(width_g == 0)
    divisor_g = np.where(width_g == 0, 1.0, width_g)
    mean = (upper - lower) / divisor_g
    by_beta = (upper_by_beta - lower_by_beta) / divisor_g
    by_log_scale = (upper_kernel * x_kg - lower_kernel * y_kg) / divisor_g - mean
    if jumps.size:
        x = x_kg[:, jumps]
        rest = (1 + x) ** -beta
        mean[:, jumps] = 1 - rest
        by_beta[:, jumps] = np.log1p(x) * rest
        by_log_scale[:, jumps] = beta * rest * x / (1 + x)
    return mean, by_beta, by_log_scale
