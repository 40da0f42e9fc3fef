"""Reads a Hugging Face folder: only its JSON and safetensors files; no code in it is ever run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.huggingface import ARCHITECTURES, Architecture, Entry, architecture_called
from settings import UserError
from settings.files import read_json
from train.checkpoint.resharding import TensorFiles
from train.checkpoint.safetensors_file import Shape, UnsupportedDtypeError

_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SHOWN = 10
_ROWS = 1024  # of the embedding and the head, which are compared at a time


@dataclass(frozen=True)
class HuggingFaceFolder:
    """A Hugging Face folder, and the parts of its config.json that lehr knows."""

    path: Path
    architecture: Architecture
    config: Mapping[str, Any]
    model: dict[str, Any]  # lehr's `model` section, as far as config.json decides it

    @property
    def positions(self) -> int | None:
        """The longest sequence that the model takes, by config.json."""
        longest = self.config.get(self.architecture.positions)
        return longest if isinstance(longest, int) else None

    @property
    def tokenizer(self) -> Path:
        """The path of tokenizer.json. Raises UserError if it is missing."""
        path = self.path / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"{self.path} has no tokenizer.json, which is needed to check that the shards have the same tokenizer; "
                "let transformers write it: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        return path


def read_folder(path: Path) -> HuggingFaceFolder:
    """Reads config.json. Raises UserError if there is none, or if lehr does not have the model."""
    if not path.is_dir():
        raise UserError(f"{path} is no folder; give one with config.json and *.safetensors")
    config = _read_json(path / "config.json")
    source = str(path / "config.json")
    if config.get("auto_map"):
        raise UserError(f"{source}: auto_map names code that comes with the model; lehr runs no such code")
    if config.get("quantization_config"):
        raise UserError(f"{source}: quantization_config is set; lehr imports float32, float16 and bfloat16")
    names = config.get("architectures")
    architecture = architecture_called(names if isinstance(names, list) else [], ARCHITECTURES, source=source)
    return HuggingFaceFolder(path, architecture, config, architecture.model_section(config, source=source))


def open_weights(folder: HuggingFaceFolder, entries: list[Entry], *, tied: bool) -> Iterator[tuple[str, Tensor]]:
    """Checks that the files hold these tensors, of these shapes, and no others. Yields lehr's tensors in order.

    Raises UserError with the names of missing, misshapen and unexpected tensors, and for a head that should be tied and
    differs from the embedding, before it yields the first tensor; and for a value that is not finite when it reads it.
    """
    files = _open_files(folder)
    prefix = folder.architecture.prefix
    names: dict[str, str] = {}  # of an entry -> in the files
    problems = []
    for entry in entries:
        found = next((name for name in (entry.name, entry.name.removeprefix(prefix)) if name in files.shapes), None)
        if found is None:
            problems.append(f"{entry.name} is missing")
        elif files.shapes[found] != entry.shape:
            problems.append(f"{entry.name} is {_by(files.shapes[found])}, and {_by(entry.shape)} by config.json")
        else:
            names[entry.name] = found
    unexpected = set(files.shapes) - set(names.values())
    head = folder.architecture.tensor_of("head")
    if tied and head in unexpected:
        unexpected.remove(head)
        embedding = names.get(folder.architecture.tensor_of("embedding"))
        if embedding is not None and not _are_equal(files, head, embedding):
            problems.append(
                f"{head} differs from {embedding}, and tie_word_embeddings is true: one of the two would be lost "
                "(if the model was trained with a head of its own, set tie_word_embeddings to false)"
            )
    problems += [f"{name} has no place in a {folder.architecture.name}" for name in sorted(unexpected)]
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise UserError(
            "\n  ".join([f"the weights in {folder.path} do not fit its config.json:", *problems[:_SHOWN], *more])
        )
    return (
        pair for entry in entries for pair in entry.to_lehr(_read_finite(files, names[entry.name], folder=folder.path))
    )


def _open_files(folder: HuggingFaceFolder) -> TensorFiles:
    """Opens the files of the weights. Raises UserError for a tensor of a type that lehr does not read."""
    try:
        return TensorFiles(_weight_files(folder.path), skip=folder.architecture.not_weights, only_floats=True)
    except UnsupportedDtypeError as error:
        raise UserError(
            f"{error}; let transformers write the model in float32: "
            "AutoModelForCausalLM.from_pretrained(..., dtype=torch.float32).save_pretrained(...)"
        ) from None


def _read_finite(files: TensorFiles, name: str, *, folder: Path) -> Tensor:
    """Reads one tensor as float32. Raises UserError if one of its values is not finite."""
    tensor = files.read(name).float()
    wrong = tensor.numel() - int(tensor.isfinite().sum())
    if wrong:
        raise UserError(
            f"the weights in {folder}: {wrong:,} of the {tensor.numel():,} values of {name} are NaN or infinite; "
            "no run can begin with them"
        )
    return tensor


def _are_equal(files: TensorFiles, one: str, other: str) -> bool:
    """Compares two matrices as float32, a piece of rows at a time."""
    if files.shapes[one] != files.shapes[other]:
        return False
    rows, *rest = files.shapes[one]
    for start in range(0, rows, _ROWS):
        pieces = [torch.empty(min(_ROWS, rows - start), *rest) for _ in range(2)]
        for name, piece in zip((one, other), pieces, strict=True):
            files.read_into(name, piece, (start, *(0 for _ in rest)))
        if not torch.equal(*pieces):
            return False
    return True


def _weight_files(path: Path) -> list[Path]:
    """Returns the safetensors files of the model."""
    if (path / _INDEX).is_file():
        weight_map = _read_json(path / _INDEX).get("weight_map")
        names = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
        if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
            raise UserError(f"{path / _INDEX}: weight_map must say which file beside it holds each tensor")
    elif (path / "model.safetensors").is_file():
        names = ["model.safetensors"]
    else:
        pickled = sorted(found.name for pattern in _PICKLES for found in path.glob(pattern))
        if pickled:
            raise UserError(
                f"{path} holds its weights as {pickled[0]}: a pickle, which can run code when it is loaded, so lehr "
                "never does; if you trust it, let transformers write model.safetensors from it (save_pretrained)"
            )
        raise UserError(f"{path} has no model.safetensors, and no {_INDEX}")
    for name in names:
        if not (path / name).is_file():
            raise UserError(f"{path / name} is missing, which {_INDEX} names; copy the folder again")
    return [path / name for name in names]


def _read_json(path: Path) -> dict[str, Any]:
    missing = f"{path} does not exist; give a folder with config.json and *.safetensors"
    plain = read_json(path, missing=missing)
    if not isinstance(plain, dict):
        raise UserError(f"{path} must hold a mapping, not {type(plain).__name__}")
    return plain


def _by(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a number"
