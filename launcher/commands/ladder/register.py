"""`lehr ladder register`: writes the forecast of the target down before the target is trained."""

from __future__ import annotations

import math

from launcher.commands.ladder.arguments import LadderArgument
from settings import UserError


def register_command(ladder: LadderArgument) -> None:
    """Register the forecast of the target: the law, the whole curve, the hashes of all inputs, and the time.

    It is written to LADDER/register.json, once. LADDER/target.yaml trains the target, which compares itself with the
    forecast at each evaluation. The register's hash is in the run's run.json and in each of its checkpoints.
    """
    from launcher.ladder.curves import ladder_curves
    from launcher.ladder.ladder_file import read_ladder
    from launcher.run.preflight import model_with_vocabulary
    from launcher.run.register import registered_forecast
    from laws.fitting.fitted import load_fit
    from settings.files import file_sha256, output_of_user, write_json

    found = read_ladder(ladder)
    if found.register.exists():
        raise UserError(
            f"{found.register} exists, and a registered forecast stays as it is; for another, copy {ladder} without "
            "it to a new folder"
        )
    if not found.fit.is_file():
        raise UserError(f"{found.fit} does not exist, so there is no forecast to register; lehr ladder fit {ladder}")
    fit = load_fit(found.fit)
    known = {curve.digest: curve.name for curve in ladder_curves(found).curves}
    fitted = {curve.digest: curve.name for curve in fit.curves if curve.digest}
    if later := [name for digest, name in known.items() if digest not in fitted]:
        raise UserError(f"{found.fit} lacks runs that are finished: {', '.join(later)}; lehr ladder fit {ladder}")
    if gone := [name for digest, name in fitted.items() if digest not in known]:
        raise UserError(
            f"{found.fit} has runs that the ladder no longer has as they were: {', '.join(gone)}; "
            f"lehr ladder fit {ladder}"
        )
    config = found.config_of(found.plan.target)
    if config.run.path.exists():
        raise UserError(f"the target has begun: {config.run.path} exists; a forecast is registered before its run")
    register = registered_forecast(
        fit,
        config,
        model_with_vocabulary(config),
        inputs={path.name: file_sha256(path) for path in (found.plan_file, found.base, found.records, found.fit)},
    )
    found.write_target()  # first: a register is never written a second time
    with output_of_user(found.register):
        write_json(found.register, register.to_plain())
    loss, low, high = (each[-1] for each in (register.forecast.loss, register.forecast.low, register.forecast.high))
    half = 50 * math.log(high / low)
    print(f"registered at {register.registered}: {found.register}, SHA-256 {file_sha256(found.register)}")
    print(f"held-out loss of the target: {loss:.4f} (90%: {low:.4f} to {high:.4f}, ± {half:.2g}%)")
    print(f"commit or publish it; next: lehr train {found.target}")
