"""`lehr import`: creates a run that begins with the weights of a Hugging Face folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.arguments import OptionalRunConfigArgument, OverridesArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.huggingface.reader import HuggingFaceFolder
    from launcher.run.config import RunConfig
    from model.config import ModelConfig


def import_huggingface(
    folder: Annotated[Path, typer.Argument(help="config.json, *.safetensors, tokenizer.json", show_default=False)],
    config: OptionalRunConfigArgument = None,
    overrides: OverridesArgument = None,
) -> None:
    """Create a run with the weights of a Hugging Face folder; `lehr train` continues it, in any layout.

    The config's `model` section may leave out the keys that the folder decides; the keys that it sets must agree.
    Without a config, the section is printed. The shards must be built with the folder's tokenizer: data.tokenizer.path.
    """
    from launcher.huggingface.reader import open_weights, read_folder

    source = read_folder(folder)
    if config is None:
        _print_section(source)
        return
    run_config = _run_config(source, config, overrides or [])
    from data.shards.index import shard_tokenizer
    from launcher.run.input_hashes import inputs_of
    from launcher.run.preflight import check_config, model_with_vocabulary
    from launcher.run.stages import draw_plan, replayed_runs, training_data
    from model.size import parameter_shapes
    from settings.files import new_folder
    from train.checkpoint.weights_only import write_first_checkpoint
    from train.run_folder.folder import RunFolder
    from train.run_folder.open_run import open_run
    from train.run_folder.start_record import Start

    _check_data(source, run_config)
    for warning in check_config(run_config, world_size=run_config.parallel.ranks):
        _warn(warning)
    model = model_with_vocabulary(run_config)
    entries = source.architecture.entries(parameter_shapes(model, seq_length=run_config.train.seq_length))
    path = run_config.run.path
    with new_folder(path) as staging:
        weights = open_weights(source, entries, tied=model.tied_embeddings)
        shapes = {name: shape for entry in entries for name, shape in entry.parts}
        start = Start(
            world_size=1, inputs=inputs_of(run_config), draws=draw_plan(run_config), replayed=replayed_runs(run_config)
        )
        lease = open_run(staging, run_config, start)
        write_first_checkpoint(
            RunFolder(staging).checkpoints,
            shapes,
            (tensor for _, tensor in weights),
            model=model.to_plain(),
            tokenizer=shard_tokenizer(training_data(run_config)).sha256,
        )
        lease.release()
    print(f"{path}: {source.architecture.name} from {folder}; continue it: lehr train {path / 'config.yaml'}")


def _print_section(source: HuggingFaceFolder) -> None:
    import yaml

    from model.config import ModelConfig
    from settings import parse

    parse(ModelConfig, source.model, source=str(source.path / "config.json"))
    print(yaml.safe_dump({"model": source.model}, sort_keys=False), end="")


def _run_config(source: HuggingFaceFolder, path: Path, overrides: list[str]) -> RunConfig:
    """Returns the run config with its model section completed from the folder. Raises UserError if keys differ."""
    from launcher.run.config import RunConfig, place_overrides
    from model.config import ModelConfig
    from settings import UserError, parse, read_yaml
    from settings.differences import flatten

    folder_model = parse(ModelConfig, source.model, source=str(source.path / "config.json"))
    plain = read_yaml(path, [*place_overrides(path), *overrides])
    section = plain.get("model") or {}
    if not isinstance(section, dict):
        raise UserError(f"config {path}: model must hold a mapping, not {type(section).__name__}")
    given = {key: value for key, value in section.items() if value is not None}
    plain["model"] = {**source.model, **given}
    config = parse(RunConfig, plain, source=str(path), overrides=overrides)
    there, here = flatten(folder_model.to_plain()), flatten(config.model.to_plain())
    differing = [
        f"model.{key}: {there[key]} in the folder, {here.get(key, 'absent')} here"
        for key in flatten(source.model)
        if here.get(key) != there[key]
    ]
    if differing:
        raise UserError("\n  ".join([f"config {path} is for another model than {source.path}:", *differing]))
    return config.model_copy(update={"model": _without_defaults(config, given)})


def _without_defaults(config: RunConfig, given: Mapping[str, object]) -> ModelConfig:
    """Returns the model without default values, so that `lehr train` accepts the given config for the run."""
    from data.shards.index import shard_tokenizer
    from launcher.run.stages import training_data

    model = config.model
    if "num_kv_heads" not in given and model.kv_heads == model.num_heads:
        model = model.model_copy(update={"num_kv_heads": None})
    if "vocab_size" not in given:
        default = model.model_copy(update={"vocab_size": None})
        if default.with_vocabulary(shard_tokenizer(training_data(config)).vocab_size).vocab_size == model.vocab_size:
            model = default
    return model


def _check_data(source: HuggingFaceFolder, config: RunConfig) -> None:
    """Raises UserError if the shards have another tokenizer than the model, or if its positions do not fit."""
    from data.shards.index import shard_tokenizer
    from data.tokenizer import tokenizer_differences
    from launcher.run.stages import training_data
    from settings import UserError

    info = shard_tokenizer(training_data(config))
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
    end_tokens = source.config.get("eos_token_id")
    if info.eos_id not in (end_tokens if isinstance(end_tokens, list) else [end_tokens]):
        _warn(f"the shards end documents with token {info.eos_id}, the folder's config.json with {end_tokens}")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
