"""Opening a saved run takes the memory of its weights, whatever layout wrote them; every command opens the same one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_runs import LLAMA, checkpoint_model, done, refused, write_config, write_random_run, write_text_shards
from live_memory import LiveMemory
from made_shards import write_source
from processes import lehr, run_ranks

from launcher.run.saved_run import open_saved_run
from settings import UserError

LARGE = {**LLAMA, "num_layers": 2, "hidden_size": 768, "ffn_size": 4096}


def memory_of(run: Path) -> tuple[int, int]:
    """Returns the peak of tensor bytes while a run is opened, and the bytes of its parameters."""
    with LiveMemory() as memory:
        opened = open_saved_run(run)
    return memory.most, sum(p.numel() * p.element_size() for p in opened.transformer.parameters())


def test_the_memory_of_the_weights_is_enough(tmp_path: Path) -> None:
    """A training engine would hold gradients and the optimizer's state as well."""
    run, size = write_random_run(tmp_path, write_text_shards(tmp_path / "shards"), model=LARGE)
    assert size > 80e6
    ((most, held),) = run_ranks(1, memory_of, run.path, join=False)
    assert held == size
    assert held <= most < 1.05 * size


def test_bfloat16_weights_take_half_also_where_the_kernel_of_training_cannot_run(tmp_path: Path) -> None:
    run, size = write_random_run(tmp_path, write_text_shards(tmp_path / "shards"), model=LARGE)
    plain = run.config.read_text()
    assert "attention: auto" in plain
    plain = plain.replace("attention: auto", "attention: flash")  # as trained on a GPU: here it cannot run
    run.config.write_text(plain.replace("precision: float32", "precision: bfloat16"))
    ((_, held),) = run_ranks(1, memory_of, run.path, join=False)
    assert held == size // 2


def opened_weights(run: Path) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in open_saved_run(run).transformer.named_parameters()}


def error_message(run: Path, shards: Path) -> str:
    try:
        open_saved_run(run, data_shards=shards)
    except UserError as error:
        return str(error)
    return "opened"


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    run, _ = write_random_run(tmp_path, write_text_shards(tmp_path / "shards"), model=LARGE)
    other = write_text_shards(tmp_path / "other", size=300)
    (message,) = run_ranks(1, error_message, run.path, other, join=False)
    assert "was trained with another tokenizer than that of the shards" in message
    assert "--shards" in message


@pytest.mark.slow
def test_shards_of_tensor_ranks_are_read_as_full_tensors(trained: Path) -> None:
    (found,) = run_ranks(1, opened_weights, trained, join=False)
    wanted = dict(checkpoint_model(trained / "checkpoints/step-00000030").named_parameters())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_generate_with_shards_that_moved(trained: Path, text_shards: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    plain = (tmp_path / "run/config.yaml").read_text()
    (tmp_path / "run/config.yaml").write_text(plain.replace(str(text_shards), str(tmp_path / "gone")))
    shutil.copytree(text_shards, tmp_path / "elsewhere")
    words = ("generate", tmp_path / "run", "lehr ", "--tokens", "4")
    gone = lehr(*words)
    assert gone.returncode == 2
    assert "there is no such folder" in gone.stderr
    found = lehr(*words, "--shards", tmp_path / "elsewhere")
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("lehr ")
    (tmp_path / "elsewhere/tokenizer.json").write_text((text_shards / "tokenizer.json").read_text() + "\n")
    altered = lehr(*words, "--shards", tmp_path / "elsewhere")
    assert altered.returncode == 2
    assert "tokenizer.json was altered" in altered.stderr


COMMANDS: dict[str, list[str]] = {"eval": [], "generate": ["lehr ", "--tokens", "4"], "export": ["DIR"]}


def command_line(name: str, run: Path, folder: Path) -> list[str | Path]:
    return [name, run, *(folder / "hf" if each == "DIR" else each for each in COMMANDS[name])]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_shards_of_another_tokenizer(name: str, trained: Path, tmp_path: Path) -> None:
    """Two tokenizers of one size: only their hashes tell them apart."""
    tokenizer = json.loads((write_text_shards(tmp_path / "shards") / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = list(vocabulary)[100:102]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    write_source(
        tmp_path / "other",
        "readme",
        train=[[[1, 0]]],
        held_out=[[[1, 0]]],
        vocab_size=320,
        tokenizer=json.dumps(tokenizer),
    )
    message = refused(*command_line(name, trained, tmp_path), "--shards", tmp_path / "other")
    assert "was trained with another tokenizer than that of the shards" in message
    assert not (tmp_path / "hf").exists()


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory, text_shards: Path) -> Path:
    """A run with checkpoints of steps 3 and 6."""
    folder = tmp_path_factory.mktemp("two_steps")
    done("train", write_config(folder, text_shards, model=LLAMA))
    return folder / "runs/try"


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_an_older_checkpoint_only_by_its_step(name: str, two_steps: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    newest = run / "checkpoints/step-00000006"
    path = next(newest.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    words = command_line(name, run, tmp_path)
    message = refused(*words)
    assert f"{path.name} was altered" in message
    assert "the newest complete one is of step 3: give --step 3" in message
    shutil.rmtree(newest)
    message = refused(*words)
    assert "names step-00000006, which is not there" in message
    assert "give --step 3" in message
    assert "no checkpoint of step 6; it has 3" in refused(*words, "--step", "6")
    given = lehr(*words, "--step", "3")
    assert given.returncode == 0, given.stderr
    (run / "checkpoints/latest").unlink()
    found = lehr(*(tmp_path / "hf2" if word == tmp_path / "hf" else word for word in words))
    assert found.returncode == 0, found.stderr
    assert "latest is missing; the newest is step-00000003" in found.stderr
    assert found.stdout.replace("hf2", "hf") == given.stdout
    next((run / "checkpoints").glob("*/*.safetensors")).unlink()
    assert "no other checkpoint of this run is complete" in refused(*words)
