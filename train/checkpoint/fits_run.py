"""Whether a checkpoint is of the model and the tokenizer of a run: the lines that say where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from settings import Settings
from train.checkpoint.manifest import Manifest
from train.resume_rules import differences


class _OfModel(Settings):
    """The section of a run config that a checkpoint's manifest repeats."""

    model: ModelConfig


def misfits(
    manifest: Manifest, *, model: Mapping[str, Any], tokenizer: str, registered_forecast: str = ""
) -> list[str]:
    """Returns a line for each key of the model that differs in a checkpoint, and one for another tokenizer.

    `registered_forecast`: its hash, of this run; it must be that of the checkpoint, if both have one.
    """
    changes = differences({"model": manifest.model}, {"model": model}, schema=_OfModel)
    lines = [f"{key}: {there} there, {here} here" for key, (there, here) in changes.items()]
    if manifest.tokenizer and tokenizer and manifest.tokenizer != tokenizer:
        lines.append(f"tokenizer: SHA-256 {manifest.tokenizer[:16]}… there, {tokenizer[:16]}… here")
    if manifest.registered_forecast and registered_forecast and manifest.registered_forecast != registered_forecast:
        lines.append(
            f"registered forecast: SHA-256 {manifest.registered_forecast[:16]}… there, {registered_forecast[:16]}… here"
        )
    return lines
