"""`lehr export`: trained runs of every architecture and layout, loaded by transformers; and its mistakes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_runs import (
    LLAMA,
    STYLES,
    checkpoint_model,
    done,
    files_of,
    our_logits,
    refused,
    some_tokens,
    write_config,
    write_random_run,
)
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=STYLES)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, text_shards: Path
) -> tuple[Path, str]:
    """A folder with a trained run, runs/try, and its export, hf; and the class of transformers that it must have."""
    model, layout, name = STYLES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    done("train", write_config(folder, text_shards, model=model), *layout)
    output = done("export", folder / "runs/try", folder / "hf")
    assert name in output
    return folder, name


def load(folder: Path, **options: Any) -> Any:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", **options
    )
    assert not any(info.values()), info
    return model.eval()


def test_transformers_computes_the_same(exported: tuple[Path, str]) -> None:
    folder, name = exported
    theirs = load(folder / "hf", dtype="auto")
    assert (type(theirs).__name__, theirs.dtype) == (name, torch.float32)
    ours = checkpoint_model(folder / "runs/try/checkpoints/step-00000006")
    tokens_BT = some_tokens(320)
    with torch.no_grad():
        theirs_BTV = theirs(tokens_BT).logits
    ours_BTV = our_logits(ours, tokens_BT)
    assert ours_BTV.std() > 0.1  # the six steps of training have an effect
    assert (ours_BTV - theirs_BTV).abs().max() < 1e-5 * theirs_BTV.abs().max()


def test_the_tokenizer_and_generation_are_loaded(exported: tuple[Path, str], text_shards: Path) -> None:
    folder, _ = exported
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    text = "  KING:\n\n  def f(x): return `lehr` + 12 – naïve"
    wanted = Tokenizer.from_file(str(text_shards / "tokenizer.json")).encode(text).ids
    assert tokenizer(text)["input_ids"] == wanted
    assert tokenizer.decode(wanted) == text
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.model_max_length) == ("<|endoftext|>", 0, 32)
    assert GenerationConfig.from_pretrained(folder / "hf").eos_token_id == 0
    model = load(folder / "hf")
    assert (model.config.eos_token_id, model.config.bos_token_id) == (0, 0)


def test_another_step_in_another_type_in_small_files(exported: tuple[Path, str]) -> None:
    folder, _ = exported
    small = folder / "small"
    done("export", folder / "runs/try", small, "--step", "3", "--dtype", "bfloat16", "--max-file-bytes", "20000")
    index = json.loads((small / "model.safetensors.index.json").read_text())
    files = sorted(small.glob("model-*.safetensors"))
    assert len(files) > 2
    assert set(index["weight_map"].values()) == {path.name for path in files}
    assert sum(path.stat().st_size for path in files) > index["metadata"]["total_size"]
    theirs = load(small, dtype="auto")
    assert theirs.dtype == torch.bfloat16
    single = folder / "single"
    done("export", folder / "runs/try", single, "--step", "3")
    assert (single / "model.safetensors").read_bytes() != (folder / "hf/model.safetensors").read_bytes()
    for name, parameter in load(single).named_parameters():
        assert torch.equal(theirs.get_parameter(name), parameter.bfloat16()), name


def test_mistakes_are_one_message_and_write_nothing(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "hf"
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    assert "is not empty" in refused("export", trained, full)
    assert files_of(full) == {"notes.txt": b"mine"}
    assert "is a file" in refused("export", trained, full / "notes.txt")
    assert "is no run folder" in refused("export", tmp_path, target)
    assert "no checkpoint of step 7; it has 30" in refused("export", trained, target, "--step", "7")
    assert "there is no such folder" in refused("export", trained, target, "--shards", "/nowhere")
    altered = tmp_path / "altered"
    shutil.copytree(trained, altered)
    path = next(altered.glob("checkpoints/step-*/*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert path.name in refused("export", altered, target)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["altered", "full"]
    target.mkdir()  # an empty folder is accepted
    done("export", trained, target)


@pytest.mark.parametrize("std", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_exported(std: float, tmp_path: Path, text_shards: Path) -> None:
    run, _ = write_random_run(tmp_path, text_shards, model=LLAMA, std=std)
    assert "model.embed_tokens.weight has values that are NaN or infinite" in refused(
        "export", run.path, tmp_path / "hf"
    )
    assert not (tmp_path / "hf").exists()


def test_a_model_that_no_architecture_has_is_refused(tmp_path: Path, text_shards: Path) -> None:
    config = write_config(tmp_path, text_shards, model={**LLAMA, "mlp": "gelu"})
    done("train", config, "train.steps=1")
    message = refused("export", tmp_path / "runs/try", tmp_path / "hf")
    assert 'LlamaForCausalLM needs model.mlp = "swiglu", not "gelu"' in message
    assert not (tmp_path / "hf").exists()


PEAKS = """
import json, sys
from launcher.cli import main

for commands in json.loads(sys.argv[1]):
    for command in commands:
        try:
            main(command)
        except SystemExit as end:
            assert not end.code, end.code
    (peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print("peak", 1024 * int(peak))
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path, text_shards: Path) -> None:
    """One process imports and exports a small model, then one of 42 million parameters, 1.3 MB at most in a tensor.

    What the second takes beyond the first is little beside its 170 MB. A program's peak is what Linux says it was.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    weights, commands = [], []
    for layers in (1, 32):
        folder = tmp_path / str(layers)
        folder.mkdir()
        sizes = {"hidden_size": 320, "intermediate_size": 1024, "num_attention_heads": 5, "vocab_size": 384}
        theirs = LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, tie_word_embeddings=False, **sizes))
        theirs.save_pretrained(folder / "hf")
        weights.append(sum(parameter.nbytes for parameter in theirs.parameters()))
        shutil.copy(text_shards / "tokenizer.json", folder / "hf")
        config = write_config(folder, text_shards)
        commands.append([["import", folder / "hf", config], ["export", folder / "runs/try", folder / "again"]])
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, json.dumps(commands, default=str)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    small, large = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak "))
    assert weights[1] - weights[0] > 160e6
    assert large - small < 0.1 * (weights[1] - weights[0])
