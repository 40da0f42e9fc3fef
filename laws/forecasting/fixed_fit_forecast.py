"""A forecast by a law that was fitted on other runs."""

from __future__ import annotations

from laws.fitting.fitted import Fit
from laws.forecasting.prediction import Prediction, RunProgress


class FixedFitForecast:
    """Forecasts a run by a fit file: a promise made before the run, which never looks at the run's own losses."""

    def __init__(self, fit: Fit, *, parameters: float | None = None, batch_tokens: float | None = None) -> None:
        """`parameters`: of the model, for a law over sizes; `batch_tokens`: of a step, for a law over batches."""
        self._fit = fit
        self._parameters = parameters
        self._batch_tokens = batch_tokens

    def predict_loss(self, progress: RunProgress, step: int) -> Prediction | str:
        """Returns the fit's prediction and band, or why there is none."""
        if step <= progress.schedule.warmup_steps:
            return "no law holds in the warm-up"
        point = progress.at(step, self._parameters, self._batch_tokens)
        low, high = self._fit.band(point)
        return Prediction(float(self._fit.predict(point)[0]), float(low[0]), float(high[0]))
