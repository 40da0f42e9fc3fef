"""`lehr import`: a run that begins with the weights of a Hugging Face folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.exit_codes import user_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.huggingface.reader import HuggingFaceFolder
    from launcher.run.config import RunConfig
    from model.config import ModelConfig


@user_errors
def import_huggingface(
    folder: Annotated[Path, typer.Argument(help="config.json, *.safetensors, tokenizer.json", show_default=False)],
    config: Annotated[Path | None, typer.Argument(help="the run config, a YAML file", show_default=False)] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as run.name=continued")
    ] = None,
) -> None:
    """Start a run with the weights of a Hugging Face folder; `lehr train` goes on with it, in any layout.

    The config's `model` section may say nothing of what the folder decides; what it says must agree. Without a config,
    the section is printed. The shards must be built with the folder's tokenizer: data.tokenizer.path.
    """
    from launcher.huggingface.reader import open_weights, read_folder

    source = read_folder(folder)
    if config is None:
        _print_section(source)
        return
    run_config = _run_config(source, config, overrides or [])
    from data.shards.index import shard_tokenizer
    from launcher.run.input_hashes import inputs_of
    from launcher.run.preflight import check_config, model_with_vocabulary, parameter_shapes
    from settings.files import new_folder
    from train.checkpoint.weights_only import write_first_checkpoint
    from train.run_folder.folder import RunFolder, open_run

    _check_data(source, run_config)
    for warning in check_config(run_config, world_size=run_config.parallel.ranks):
        _warn(warning)
    model = model_with_vocabulary(run_config)
    entries = source.architecture.entries(parameter_shapes(model, run_config.train.seq_length))
    path = run_config.run.path
    with new_folder(path) as aside:
        weights = open_weights(source, entries, tied=model.tied_embeddings)
        shapes = {name: shape for entry in entries for name, shape in entry.ours}
        lease = open_run(aside, run_config, world_size=1, inputs=inputs_of(run_config))
        write_first_checkpoint(
            RunFolder(aside).checkpoints,
            shapes,
            (tensor for _, tensor in weights),
            model=model.to_plain(),
            tokenizer=shard_tokenizer(run_config.data).sha256,
        )
        lease.release()
    print(f"{path}: {source.architecture.name} from {folder}; go on with it: lehr train {path / 'config.yaml'}")


def _print_section(source: HuggingFaceFolder) -> None:
    import yaml

    from model.config import ModelConfig
    from settings import parse

    parse(ModelConfig, source.model, source=str(source.path / "config.json"))
    print(yaml.safe_dump({"model": source.model}, sort_keys=False), end="")


def _run_config(source: HuggingFaceFolder, path: Path, overrides: list[str]) -> RunConfig:
    """The run config, its model section filled in from the folder. Raises UserError with the keys that differ."""
    from launcher.run.config import RunConfig
    from model.config import ModelConfig
    from settings import UserError, parse, read_yaml
    from settings.differences import flatten

    theirs = parse(ModelConfig, source.model, source=str(source.path / "config.json"))
    plain = read_yaml(path, overrides)
    section = plain.get("model") or {}
    if not isinstance(section, dict):
        raise UserError(f"config {path}: model must hold a mapping, not {type(section).__name__}")
    said = {key: value for key, value in section.items() if value is not None}
    config = parse(RunConfig, {**plain, "model": {**source.model, **said}}, source=str(path))
    there, here = flatten(theirs.to_plain()), flatten(config.model.to_plain())
    differing = [
        f"model.{key}: {there[key]} in the folder, {here.get(key, 'absent')} here"
        for key in flatten(source.model)
        if here.get(key) != there[key]
    ]
    if differing:
        raise UserError("\n  ".join([f"config {path} is of another model than {source.path}:", *differing]))
    return config.model_copy(update={"model": _unsaid(config, said)})


def _unsaid(config: RunConfig, said: Mapping[str, object]) -> ModelConfig:
    """The model without numbers that are the same when left out, so that the config as given is the run's config."""
    from data.shards.index import shard_tokenizer

    model = config.model
    if "num_kv_heads" not in said and model.kv_heads == model.num_heads:
        model = model.model_copy(update={"num_kv_heads": None})
    if "vocab_size" not in said:
        alone = model.model_copy(update={"vocab_size": None})
        if alone.with_vocabulary(shard_tokenizer(config.data).vocab_size).vocab_size == model.vocab_size:
            model = alone
    return model


def _check_data(source: HuggingFaceFolder, config: RunConfig) -> None:
    """Raises UserError where the shards' numbers mean other text than the model's, or where positions do not fit."""
    from data.shards.index import shard_tokenizer
    from data.tokenizer import tokenizer_differences
    from settings import UserError

    info = shard_tokenizer(config.data)
    differing = tokenizer_differences(source.tokenizer, config.data.shards / info.path)
    if differing:
        first = f"the tokenizer of {source.path} is not that of the shards in {config.data.shards}:"
        last = f"build shards with it: lehr data build ... data.tokenizer.path={source.tokenizer}"
        raise UserError("\n  ".join([first, *differing]) + f"\n{last}")
    length, longest = config.train.seq_length, source.positions
    if config.model.position.name == "learned" and length != longest:
        raise UserError(
            f"train.seq_length = {length}, and {source.path} has learned {longest} positions "
            f"({source.architecture.positions}); set train.seq_length to {longest}"
        )
    if longest is not None and length > longest:
        _warn(f"train.seq_length = {length} is more than the {longest} positions that the model was trained on")
    ends = source.config.get("eos_token_id")
    if info.eos_id not in (ends if isinstance(ends, list) else [ends]):
        _warn(f"the shards end documents with token {info.eos_id}, the folder's config.json with {ends}")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
