"""`lehr export`: writes a run's checkpoint as a folder that Hugging Face's transformers loads without extra code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from launcher.commands.arguments import CheckpointStepOption, MovedShardsOption, RunFolderArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from model.huggingface import Entry
    from model.parameter import ParamSpec
    from train.checkpoint.weights_only import Weights


def export_run(
    run: RunFolderArgument,
    folder: Annotated[Path, typer.Argument(help="a new or empty folder", show_default=False)],
    step: CheckpointStepOption = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="The type of the exported weights.")
    ] = "float32",
    max_file_bytes: Annotated[int, typer.Option(min=1, help="The largest size of a weights file.")] = 5 * 10**9,
    shards: MovedShardsOption = None,
) -> None:
    """Write a run's checkpoint as a Hugging Face folder: safetensors, config.json, tokenizer.

    It runs in one process, whatever layout saved the checkpoint, with one tensor in memory at a time. The folder
    appears complete or not at all.
    """
    from launcher.commands.outputs import check_output
    from launcher.huggingface.tokenizer import tokenizer_files
    from launcher.run.saved_run import open_checkpoint
    from launcher.run.stages import training_data
    from model.huggingface import ARCHITECTURES, architecture_of
    from model.parameter import specs_of
    from model.transformer import without_values
    from settings.files import new_folder, write_json
    from train.checkpoint.weights_only import Weights

    check_output(folder, option="folder")
    saved = open_checkpoint(run, step=step, data_shards=shards)
    manifest, model = saved.manifest, saved.model
    architecture = architecture_of(model, ARCHITECTURES)
    seq_length = saved.config.train.seq_length
    tokenizer = tokenizer_files(training_data(saved.config), longest=seq_length)
    specs = specs_of(without_values(model, seq_length=seq_length))
    with new_folder(folder) as staging:
        weights = Weights(saved.path, manifest)
        entries = architecture.entries(weights.shapes)
        parameters = _write_weights(staging, weights, entries, specs, dtype=dtype, max_file_bytes=max_file_bytes)
        end_tokens = {"bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end}
        model_config = architecture.config_json(model, seq_length=seq_length)
        write_json(staging / "config.json", {**model_config, **end_tokens, "torch_dtype": dtype})
        write_json(staging / "generation_config.json", {"_from_model_config": True, **end_tokens})
        for name, content in tokenizer.files.items():
            (staging / name).write_bytes(content)
    print(f"{folder}: {architecture.name}, step {manifest.step}, {parameters:,} parameters in {dtype}")


def _write_weights(
    folder: Path,
    weights: Weights,
    entries: Sequence[Entry],
    specs: Mapping[str, ParamSpec],
    *,
    dtype: str,
    max_file_bytes: int,
) -> int:
    """Writes model.safetensors, or several files with an index. Returns the number of parameters."""
    import torch

    from model.fold import fold_scales
    from settings import UserError
    from settings.files import write_json
    from train.checkpoint.safetensors_file import write_safetensors

    torch_dtype: torch.dtype = getattr(torch, dtype)

    def read_entry(entry: Entry) -> torch.Tensor:
        tensor = entry.to_huggingface(fold_scales({name: weights.read(name) for name, _ in entry.parts}, specs))
        tensor = tensor.to(torch_dtype)
        if not tensor.isfinite().all():
            raise UserError(f"{entry.name} has values that are NaN or infinite in {dtype}; export another --step")
        return tensor

    groups = split_by_size(entries, max_file_bytes, item_bytes=torch_dtype.itemsize)
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        name = "model.safetensors" if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        shapes: Mapping[str, Any] = {entry.name: entry.shape for entry in group}
        write_safetensors(folder / name, shapes, map(read_entry, group), dtype=torch_dtype, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shapes, name)
    parameters = sum(entry.numel for entry in entries)
    if len(groups) > 1:
        total = {"total_parameters": parameters, "total_size": parameters * torch_dtype.itemsize}
        write_json(folder / "model.safetensors.index.json", {"metadata": total, "weight_map": weight_map})
    return parameters


def split_by_size(entries: Sequence[Entry], most_bytes: int, *, item_bytes: int) -> list[list[Entry]]:
    """Divides the tensors over files, in order; a tensor larger than `most_bytes` gets a file of its own."""
    groups: list[list[Entry]] = [[]]
    used = 0
    for entry in entries:
        size = entry.numel * item_bytes
        if groups[-1] and used + size > most_bytes:
            groups.append([])
            used = 0
        groups[-1].append(entry)
        used += size
    return groups
