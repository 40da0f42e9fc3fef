"""Shards with a real tokenizer, tiny runs of several architectures on them, and the logits of their checkpoints."""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from processes import lehr
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load
from typer.testing import CliRunner

from data.tokenizer import train_tokenizer
from launcher.cli import make_app
from launcher.run.config import RunConfig
from launcher.run.input_hashes import inputs_of
from launcher.run.preflight import model_with_vocabulary
from model.attention import KERNELS
from model.config import ModelConfig
from model.layers import TorchLayers
from model.size import parameter_shapes
from model.transformer import Transformer
from settings import compose
from train.checkpoint.weights_only import write_first_checkpoint
from train.run_folder.folder import RunFolder
from train.run_folder.open_run import open_run
from train.run_folder.start_record import Start

sys.path.append(str(Path(__file__).parents[1] / "data"))
from made_shards import write_source

SEQ_LENGTH = 32
TEXT = (Path(__file__).parents[2] / "README.md").read_text()
PARAGRAPHS = [part for part in TEXT.split("\n\n") if part.strip()]
SMALL = {"num_layers": 4, "hidden_size": 32, "num_heads": 4, "ffn_size": 48}
LLAMA = {
    **SMALL,
    "num_kv_heads": 2,
    "position": {"name": "rope", "theta": 5000.0},
    "norm": {"name": "rmsnorm", "eps": 2e-5},
}
QWEN3 = {**SMALL, "num_kv_heads": 2, "qk_norm": True, "tied_embeddings": True, "norm_scaling": "layernorm_scaling"}
GPT2 = {**SMALL, "norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True, "tied_embeddings": True}
GPT2 = {**GPT2, "norm_scaling": "layernorm_scaling"}
# Style -> model section, layout, the class of transformers that the export must have.
STYLES: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "llama": (LLAMA, ["parallel.tensor=2", "parallel.sequence=true"], "LlamaForCausalLM"),
    "qwen3": (QWEN3, ["parallel.pipeline=2"], "Qwen3ForCausalLM"),
    "gpt2": (GPT2, ["parallel.tensor=2"], "GPT2LMHeadModel"),
}


def write_text_shards(folder: Path, *, size: int = 320, held_out: bool = True) -> Path:
    """Writes shards of this project's README, with a tokenizer trained on it."""
    tokenizer = train_tokenizer([PARAGRAPHS], size=size, end_of_text="<|endoftext|>")
    documents = [[*tokenizer.encode(part).ids, 0] for part in PARAGRAPHS]
    text = tokenizer.to_str(pretty=True)
    write_source(
        folder,
        "readme",
        train=[documents * 4],
        held_out=[documents] if held_out else [],
        vocab_size=tokenizer.get_vocab_size(),
        tokenizer=text,
    )
    return folder


def write_config(folder: Path, shards: Path, **sections: dict[str, Any]) -> Path:
    """Writes a run config of 6 steps; `sections` are added or replaced."""
    plain: dict[str, Any] = {
        "run": {"name": "try", "folder": str(folder / "runs"), "seed": 1},
        "data": {"shards": str(shards)},
        "optim": {"name": "adamw", "lr": 1e-2},
        "schedule": {"name": "constant", "warmup_steps": 1},
        "train": {"steps": 6, "seq_length": SEQ_LENGTH, "micro_batch_size": 2, "global_batch_size": 8},
        "checkpoint": {"every_steps": 3},
        **sections,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(plain))
    return path


def write_random_run(folder: Path, shards: Path, *, model: dict[str, Any], std: float = 0.02) -> tuple[RunFolder, int]:
    """Writes a run with random weights, of this standard deviation, and no step. Returns it and its weights' bytes."""
    config = compose(RunConfig, write_config(folder, shards, model=model))
    full_model = model_with_vocabulary(config)
    shapes = parameter_shapes(full_model, seq_length=config.train.seq_length)
    run = RunFolder(config.run.path)
    open_run(run.path, config, Start(world_size=1, inputs=inputs_of(config))).release()
    generator = torch.Generator().manual_seed(0)
    write_first_checkpoint(
        run.checkpoints,
        shapes,
        (std * torch.randn(shape, generator=generator) for shape in shapes.values()),
        model=full_model.to_plain(),
        tokenizer=inputs_of(config).tokenizer,
    )
    return run, 4 * sum(map(math.prod, shapes.values()))


def done(*arguments: str | Path) -> str:
    """Returns the stdout of a command that must succeed. It runs in this process, for speed, if it starts no ranks."""
    code, out, errors = _run(*map(str, arguments))
    assert code == 0, errors + out
    return out


def refused(*arguments: str | Path) -> str:
    """Returns the message of a command that must exit with 2, which it does before it starts any process."""
    code, out, errors = _run(*map(str, arguments), in_process=True)
    assert code == 2, errors + out
    assert "Traceback" not in errors
    return errors


def _run(*arguments: str, in_process: bool = False) -> tuple[int, str, str]:
    if arguments[0] == "train" and not in_process:
        process = lehr(*arguments)
        return process.returncode, process.stdout, process.stderr
    result = CliRunner().invoke(make_app(arguments), list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def checkpoint_model(checkpoint: Path) -> Transformer:
    """Returns the full model of a checkpoint in plain torch, read by torch's own reader."""
    plain = json.loads((checkpoint / "manifest.json").read_text())["model"]
    model = Transformer(
        ModelConfig.model_validate(plain), seq_length=SEQ_LENGTH, layers=TorchLayers(), attend=KERNELS["sdpa"]
    )
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # there is no process group, on purpose
        load(tensors, storage_reader=HuggingFaceStorageReader(str(checkpoint)), no_dist=True)
    return model


@torch.no_grad()
def our_logits(model: Transformer, tokens_BT: Tensor) -> Tensor:
    """Returns the logits [B, T, V]."""
    positions_BT = torch.arange(tokens_BT.shape[1]).expand_as(tokens_BT)
    return model.logits(model(tokens_BT, None, positions_BT)).transpose(0, 1)


def some_tokens(entries: int, *, rows: int = 3, length: int = SEQ_LENGTH) -> Tensor:
    """Returns random tokens [rows, length]."""
    return torch.randint(0, entries, (rows, length), generator=torch.Generator().manual_seed(7))


def files_of(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of every file, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
