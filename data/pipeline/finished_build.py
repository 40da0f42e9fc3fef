"""Finished shards: whether a folder already holds the shards of a config and its input."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from data.config import DataConfig
from data.pipeline.input_fingerprint import changed_files, fingerprint_input
from data.pipeline.report import BUILD_FILE, SourceReport, differences, read_build_file
from data.shards.dataset_json import FILE_NAME, check_hash, read_dataset
from settings import UserError, parse
from settings.files import file_sha256


def find_finished_build(config: DataConfig, log: Callable[[str], None]) -> dict[str, SourceReport]:
    """Return the report of a finished build of this recipe and input, or an empty dict if `data.shards` is free.

    Raises UserError if the folder holds anything else: other files, or shards of another recipe, input or tokenizer.
    """
    shards = config.shards
    record = read_build_file(shards)
    if record is None:
        if shards.is_dir() and not any(shards.iterdir()):
            return {}
        if shards.exists():
            raise UserError(
                f"data.shards = {shards} exists and was not made by `lehr data build`; "
                "name another folder, or remove it"
            )
        return {}
    remedy = f"build into another folder (data.shards=...), or remove {shards} to build it anew"
    if changed := differences(_complete(record.recipe), json.loads(json.dumps(config.recipe()))):
        listed = "\n  ".join(changed[:10])
        raise UserError(f"{shards} holds shards of another config:\n  {listed}\n{remedy}")
    _check_tokenizer(config, remedy)
    try:
        inputs = fingerprint_input(config)
    except UserError as error:
        log(f"the input of {shards} is no longer there: {error}")
        return record.sources
    if files := changed_files(record.inputs, inputs):
        raise UserError(f"{shards} was built from other input: {_list_some(files)} changed; {remedy}")
    return record.sources


def _complete(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded recipe with the defaults of the keys that did not exist when it was recorded."""
    try:
        config = parse(DataConfig, {"shards": ".", **recipe}, source=BUILD_FILE)
    except UserError:  # a key that no longer exists, or a source that is not registered now
        return recipe
    completed: dict[str, Any] = json.loads(json.dumps(config.recipe()))
    return completed


def _check_tokenizer(config: DataConfig, remedy: str) -> None:
    """Raise UserError if the shards' tokenizer was altered, or if `data.tokenizer.path` is another one."""
    for dataset in sorted(config.shards.glob(f"*/{FILE_NAME}")):
        recorded = read_dataset(dataset.parent).tokenizer
        check_hash(config.shards / recorded.path, recorded.sha256)
        given = config.tokenizer.path
        if given and given.is_file() and (found := file_sha256(given)) != recorded.sha256:
            raise UserError(
                f"data.tokenizer.path = {given} is not the tokenizer that {dataset.parent} was built with: its SHA-256 "
                f"is {found[:16]}…, dataset.json says {recorded.sha256[:16]}…; put that one back, or {remedy}"
            )


def _list_some(files: list[str]) -> str:
    return ", ".join(files[:3]) + (f" and {len(files) - 3:,} more files" if len(files) > 3 else "")
