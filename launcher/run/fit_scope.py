"""The range of a fit's curves: defaults for a run to come, and warnings if its schedule lies outside."""

from __future__ import annotations

from laws.curve import LrCurve
from laws.fitting.fitted import Fit
from settings import UserError


def default_peak(fit: Fit) -> float:
    """Returns the peak lr of the fitted curves. Raises UserError if their peaks differ by over 1%."""
    peaks = [curve.peak_lr for curve in fit.curves]
    if not peaks or min(peaks) < 0.99 * max(peaks):
        values = ", ".join(f"{peak:.4g}" for peak in peaks) or "none"
        raise UserError(
            f"the fit has curves of several peak lrs ({values}): give optim.lr=... to predict, or --constraint "
            "peak_lr=... to choose a schedule"
        )
    return max(peaks)


def default_warmup(fit: Fit) -> int:
    """Returns the shortest warm-up of the fitted curves, in steps."""
    return min((curve.warmup_steps for curve in fit.curves), default=0)


def schedule_warnings(fit: Fit, schedule: LrCurve) -> tuple[str, ...]:
    """Returns a warning for each way in which a schedule lies outside the fitted curves."""
    if not fit.curves:
        return ()
    warnings = []
    peaks = [curve.peak_lr for curve in fit.curves]
    if not 0.99 * min(peaks) <= schedule.peak <= 1.01 * max(peaks):
        warnings.append(
            f"the peak lr {schedule.peak:.3g} is not within those of the fit ({min(peaks):.3g} to {max(peaks):.3g}); "
            "a law fitted at one peak is unreliable at another"
        )
    longest = max(curve.steps for curve in fit.curves)
    if schedule.steps > 4 * longest:
        warnings.append(f"{schedule.steps} steps are over four times the longest curve of the fit ({longest})")
    lowest = min(curve.last_lr for curve in fit.curves)
    if schedule.lr[-1] < 0.5 * lowest:
        warnings.append(f"the last lr {schedule.lr[-1]:.3g} is below what any curve of the fit reached ({lowest:.3g})")
    return tuple(warnings)
