"""`lehr import`: a run begins with the weights of a folder, to the bit, in any layout; misfits are refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_runs import LLAMA, QWEN3, SEQ_LENGTH, done, files_of, refused, write_config, write_text_shards
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from data.batches.loader import Loader
from data.config import DataConfig
from train.metrics.jsonl import read_metrics

pytestmark = pytest.mark.slow

VOCABULARY = 390  # a multiple of nothing, as in published models
LLAMA_CONFIG = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    eos_token_id=0,
)
QWEN3_CONFIG = Qwen3Config(
    **{key: getattr(LLAMA_CONFIG, key) for key in ("vocab_size", "hidden_size", "intermediate_size", "eos_token_id")},
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=True,
)
GPT2_CONFIG = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=SEQ_LENGTH, eos_token_id=0)
# Style -> a model of transformers, and a layout in which its training continues.
THEIRS: dict[str, tuple[Any, Any, list[str]]] = {
    "llama": (LlamaForCausalLM, LLAMA_CONFIG, ["parallel.tensor=2", "parallel.sequence=true"]),
    "qwen3": (Qwen3ForCausalLM, QWEN3_CONFIG, ["parallel.pipeline=2"]),
    "gpt2": (GPT2LMHeadModel, GPT2_CONFIG, ["parallel.data=2", "parallel.zero=2"]),
}


def transformers_folder(folder: Path, text_shards: Path, style: str = "llama") -> Path:
    """Writes a model with random weights by transformers, and the shards' tokenizer."""
    kind, config, _ = THEIRS[style]
    torch.manual_seed(3)
    model = kind(config)
    with torch.no_grad():  # gains, biases and logits that differ from their initial values
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    shutil.copy(text_shards / "tokenizer.json", folder)
    return folder


@pytest.mark.parametrize("style", THEIRS)
def test_training_begins_with_the_loss_of_transformers(style: str, tmp_path: Path, text_shards: Path) -> None:
    """The first loss, in a layout of two ranks, is that of transformers on the same rows."""
    folder = transformers_folder(tmp_path / "hf", text_shards, style)
    config = write_config(tmp_path, text_shards, data={"shards": str(text_shards), "document_masking": False})
    assert str(tmp_path / "runs/try") in done("import", folder, config)
    run = tmp_path / "runs/try"
    assert (run / "checkpoints/latest").read_text() == "step-00000000\n"
    done("train", run / "config.yaml", *THEIRS[style][2])
    losses = [line["loss"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line]
    with Loader(
        DataConfig(shards=text_shards, document_masking=False), seed=1, seq_length=SEQ_LENGTH, rows_per_step_global=8
    ) as loader:
        rows = loader.batch(0)
    assert rows.loss_mask.all()
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        logits_BTV = model(torch.tensor(rows.tokens)).logits
        wanted = nn.functional.cross_entropy(logits_BTV.flatten(0, 1), torch.tensor(rows.targets).flatten())
    assert losses[0] == pytest.approx(float(wanted), rel=1e-5)
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("style", THEIRS)
def test_export_import_export_is_equal_to_the_bit(style: str, dtype: str, tmp_path: Path, text_shards: Path) -> None:
    """Export, import, export: every file has the same bytes; and the weights are the original ones."""
    folder = transformers_folder(tmp_path / "hf", text_shards, style)
    config = write_config(tmp_path, text_shards)
    done("import", folder, config, "run.name=first")
    done("export", tmp_path / "runs/first", tmp_path / "once", "--dtype", dtype)
    done("import", tmp_path / "once", config, "run.name=second")
    done("export", tmp_path / "runs/second", tmp_path / "twice", "--dtype", dtype)
    once, twice = files_of(tmp_path / "once"), files_of(tmp_path / "twice")
    assert list(once) == list(twice)
    for name, content in once.items():
        assert twice[name] == content, name
    kind = getattr(torch, dtype)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "twice", dtype=kind)
    for name, parameter in AutoModelForCausalLM.from_pretrained(folder).named_parameters():
        assert torch.equal(back.get_parameter(name), parameter.to(kind)), name


@pytest.mark.parametrize("model", [LLAMA, QWEN3], ids=["llama", "qwen3, scaled norms"])
def test_a_trained_run_is_exported_and_imported(model: dict[str, Any], tmp_path: Path, text_shards: Path) -> None:
    """Scaled norms become gains: the config differs, the export does not."""
    config = write_config(tmp_path, text_shards, model=model)
    done("train", config, "train.steps=2", "run.name=trained")
    done("export", tmp_path / "runs/trained", tmp_path / "once")
    plain = write_config(tmp_path, text_shards, model={**model, "norm_scaling": "none"})
    done("import", tmp_path / "once", plain)
    done("export", tmp_path / "runs/try", tmp_path / "twice")
    assert files_of(tmp_path / "once") == files_of(tmp_path / "twice")
    done("train", plain, "train.steps=1")  # `lehr train` accepts the given config for the run


def test_the_command_that_a_refused_resume_names_begins_a_new_run(tmp_path: Path, text_shards: Path) -> None:
    config = write_config(tmp_path, text_shards, model=LLAMA)
    done("train", config, "train.steps=2")
    changed = ("train.steps=4", "optim.lr=1e-4", "schedule.name=cosine", "train.global_batch_size=4")
    message = refused("train", config, *changed)
    assert "optim.lr: 0.01 there, 0.0001 here" in message
    changed += ("checkpoint.keep_last=9",)
    (command,) = [line.split() for line in message.splitlines() if line.startswith("  lehr ")]
    given = {"CONFIG": [str(config)], "[KEY=VALUE]...": list(changed)}
    done(*(part.replace("NEW", "branch") for word in command[1:] for part in given.get(word, [word])))
    for run in ("try", "branch"):
        done("export", tmp_path / "runs" / run, tmp_path / run, "--step", "2")
    assert files_of(tmp_path / "try") == files_of(tmp_path / "branch")
    assert [line["lr"] for line in read_metrics(tmp_path / "runs/branch/metrics.jsonl") if "lr" in line][2:] == [
        pytest.approx(1e-4 * (1 + math.cos(math.pi * share)) / 2, rel=1e-6, abs=1e-12) for share in (2 / 3, 1)
    ]
    assert "lehr import" not in refused("train", config, "train.steps=2", "model.hidden_size=64")


def test_without_a_config_the_section_is_printed(tmp_path: Path, text_shards: Path) -> None:
    folder = transformers_folder(tmp_path / "hf", text_shards)
    section = yaml.safe_load(done("import", folder))["model"]
    assert section["vocab_size"] == VOCABULARY
    assert section["norm"] == {"name": "rmsnorm", "eps": 1e-6}
    config = write_config(tmp_path, text_shards, model=section)
    done("import", folder, config)
    assert "is not empty" in refused("import", folder, config)


def test_mistakes_are_one_message_and_leave_nothing(tmp_path: Path, text_shards: Path) -> None:
    folder = transformers_folder(tmp_path / "hf", text_shards)
    config = write_config(tmp_path, text_shards)
    message = refused("import", folder, config, "model.hidden_size=64", "model.norm=rmsnorm", "model.num_kv_heads=4")
    for key in ("model.hidden_size: 32 in the folder, 64 here", "model.norm.eps: 1e-06", "model.num_kv_heads: 2"):
        assert key in message
    assert "model.norm_scaling" in refused("import", folder, config, "model.norm_scaling=layernorm_scaling")
    other = write_text_shards(tmp_path / "other", size=300)
    message = refused("import", folder, config, f"data.shards={other}")
    assert "model.vocab: 320 and 300 entries" in message
    assert "data.tokenizer.path" in message
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in refused("import", folder, config)
    assert "no folder" in refused("import", tmp_path / "nowhere", config)
    assert "config.json does not exist" in refused("import", text_shards, config)
    gpt2 = transformers_folder(tmp_path / "gpt2", text_shards, "gpt2")
    assert "set train.seq_length to 32" in refused("import", gpt2, config, "train.seq_length=16")
    assert not (tmp_path / "runs").exists()


def alter_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_weights_that_do_not_fit(tmp_path: Path, text_shards: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = transformers_folder(tmp_path / "hf", text_shards)
    config = write_config(tmp_path, text_shards)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.self_attn.q_proj.bias"] = torch.zeros(32)
    tensors["model.norm.weight"] = torch.zeros(31)
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    message = refused("import", folder, config)
    for part in (
        "lm_head.weight is missing",
        "model.norm.weight is 31, and 32 by config.json",
        "model.layers.1.self_attn.q_proj.bias has no place in a LlamaForCausalLM",
    ):
        assert part in message
    alter_json(folder / "config.json", architectures=["MambaForCausalLM"])
    assert "lehr imports LlamaForCausalLM" in refused("import", folder, config)
    assert not any((tmp_path / "runs").glob("*"))


def alter_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replaces, adds or removes tensors of model.safetensors, whose names have "__" for "."."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def weights_file(folder: Path, name: str) -> bytes:
    return next((folder / "runs" / name / "checkpoints/step-00000000").glob("*.safetensors")).read_bytes()


def test_a_tied_head_must_equal_the_embedding(tmp_path: Path, text_shards: Path) -> None:
    """transformers computes the logits with a head that is in the file, also if config.json ties it."""
    from safetensors.torch import load_file

    folder = transformers_folder(tmp_path / "hf", text_shards, "qwen3")
    config = write_config(tmp_path, text_shards)
    done("import", folder, config, "run.name=without")
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    alter_tensors(folder, lm_head__weight=embedding.clone())
    done("import", folder, config, "run.name=equal")
    assert weights_file(tmp_path, "equal") == weights_file(tmp_path, "without")
    other = embedding.clone()
    other[-1, -1] += 1e-6
    for head in (other, embedding[:-1].clone()):
        alter_tensors(folder, lm_head__weight=head)
        message = refused("import", folder, config)
        assert "lm_head.weight differs from model.embed_tokens.weight, and tie_word_embeddings is true" in message
    alter_json(folder / "config.json", tie_word_embeddings=False)
    alter_tensors(folder, lm_head__weight=other)
    done("import", folder, config, "run.name=untied")
    assert not (tmp_path / "runs/try").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value: float, tmp_path: Path, text_shards: Path) -> None:
    folder = transformers_folder(tmp_path / "hf", text_shards)
    weight = torch.ones(32)
    weight[5] = value
    alter_tensors(folder, model__layers__2__input_layernorm__weight=weight.bfloat16())
    message = refused("import", folder, write_config(tmp_path, text_shards))
    assert "1 of the 32 values of model.layers.2.input_layernorm.weight are NaN or infinite" in message
    assert not any((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.float64, "F64"), (torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.float8_e5m2, "F8_E5M2")],
)
def test_other_types_are_refused_by_name(dtype: torch.dtype, name: str, tmp_path: Path, text_shards: Path) -> None:
    folder = transformers_folder(tmp_path / "hf", text_shards)
    alter_tensors(folder, model__norm__weight=torch.ones(32).to(dtype))
    message = refused("import", folder, write_config(tmp_path, text_shards))
    assert f"model.norm.weight is of type {name}; lehr reads F32, F16, BF16; let transformers write" in message
    assert "no safetensors file" not in message


class Trap:
    """Makes a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_code_of_the_folder_is_run(tmp_path: Path, text_shards: Path) -> None:
    import pickle

    folder = transformers_folder(tmp_path / "hf", text_shards)
    config = write_config(tmp_path, text_shards)
    sprung = tmp_path / "sprung"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    (folder / "modeling.py").write_text(f"import pathlib; pathlib.Path({str(sprung)!r}).touch()")
    done("import", folder, config)  # it is ignored beside safetensors
    (folder / "model.safetensors").unlink()
    assert "a pickle, which can run code" in refused("import", folder, config, "run.name=second")
    shutil.copy(folder / "pytorch_model.bin", folder / "model.safetensors")
    assert "is no safetensors file" in refused("import", folder, config, "run.name=second")
    alter_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Model"})
    assert "lehr runs no such code" in refused("import", folder, config, "run.name=second")
    assert not sprung.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert sprung.exists()  # unpickling it does make the file


def test_older_files_of_gpt2(tmp_path: Path, text_shards: Path) -> None:
    """They have names without "transformer.", and the causal mask, of bytes in some, among the tensors."""
    from safetensors.torch import load_file, save_file

    folder = transformers_folder(tmp_path / "hf", text_shards, "gpt2")
    config = write_config(tmp_path, text_shards)
    done("import", folder, config, "run.name=new")
    tensors = load_file(folder / "model.safetensors")
    older = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    older["h.0.attn.bias"] = torch.ones(1, 1, SEQ_LENGTH, SEQ_LENGTH).tril()
    older["h.1.attn.bias"] = torch.ones(1, 1, SEQ_LENGTH, SEQ_LENGTH).tril().to(torch.uint8)
    save_file(older, folder / "model.safetensors", metadata={"format": "pt"})
    done("import", folder, config, "run.name=old")
    assert weights_file(tmp_path, "new") == weights_file(tmp_path, "old")
