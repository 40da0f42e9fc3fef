"""`lehr generate` from a run of two tensor ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from huggingface_runs import PARAGRAPHS, SEQ_LENGTH, checkpoint_model, our_logits
from processes import lehr
from tokenizers import Tokenizer

from model.transformer import Transformer

pytestmark = pytest.mark.slow

END = 0


@pytest.fixture(scope="module")
def model(trained: Path) -> Transformer:
    return checkpoint_model(trained / "checkpoints/step-00000030")


@pytest.fixture(scope="module")
def tokenizer(text_shards: Path) -> Tokenizer:
    return Tokenizer.from_file(str(text_shards / "tokenizer.json"))


def generated(trained: Path, prompt: str, *options: str) -> str:
    done = lehr("generate", trained, prompt, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(prompt)
    return done.stdout.removesuffix("\n").removeprefix(prompt)


def most_probable(model: Transformer, prompt: Sequence[int], tokens: int, entries: int) -> list[int]:
    """Takes the largest logit for each token, given the last SEQ_LENGTH tokens."""
    context = list(prompt)
    for _ in range(tokens):
        logits_BTV = our_logits(model, torch.tensor([context[-SEQ_LENGTH:]]))
        token = int(logits_BTV[0, -1, :entries].argmax())
        if token == END:
            break
        context.append(token)
    return context[len(prompt) :]


def test_a_prompt_that_is_no_utf8_is_one_message(trained: Path) -> None:
    done = lehr("generate", trained, "hel\udcff", "--tokens", "3")  # the byte 0xff of a command line
    assert (done.returncode, done.stderr) == (
        2,
        "error: the prompt is no UTF-8 text; convert it, such as with iconv\n",
    )


LONG = PARAGRAPHS[0] + "\n\n" + PARAGRAPHS[1]


@pytest.mark.parametrize("prompt", ["lehr ", LONG, ""], ids=["short", "longer than the context", "none"])
def test_at_temperature_0_every_token_is_the_most_probable(
    prompt: str, trained: Path, model: Transformer, tokenizer: Tokenizer
) -> None:
    encoded = tokenizer.encode(prompt).ids or [END]
    assert (len(encoded) > SEQ_LENGTH) == (prompt == LONG)
    wanted = most_probable(model, encoded, 12, tokenizer.get_vocab_size())
    assert wanted
    text = generated(trained, prompt, "--tokens", "12", "--temperature", "0")
    assert text == tokenizer.decode(wanted)


def test_a_seed_gives_a_text_and_another_seed_another(trained: Path) -> None:
    options = ("--tokens", "24", "--temperature", "1.0", "--top-p", "1.0")
    first = generated(trained, "lehr ", *options, "--seed", "3")
    assert generated(trained, "lehr ", *options, "--seed", "3") == first
    assert generated(trained, "lehr ", *options, "--seed", "4") != first


def test_a_tiny_top_p_leaves_the_most_probable(trained: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    wanted = most_probable(model, tokenizer.encode("lehr ").ids, 6, tokenizer.get_vocab_size())
    text = generated(trained, "lehr ", "--tokens", "6", "--temperature", "2.0", "--top-p", "1e-9", "--seed", "9")
    assert text == tokenizer.decode(wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere/run", "lehr"], "/nowhere/run is no run folder"),
        (["RUN", "lehr", "--temperature", "-1"], "--temperature"),
        (["RUN", "lehr", "--top-p", "1.5"], "--top-p"),
        (["RUN", "lehr", "--tokens", "0"], "--tokens"),
    ],
)
def test_mistakes_are_one_message(arguments: list[str], message: str, trained: Path) -> None:
    done = lehr("generate", *(str(trained) if each == "RUN" else each for each in arguments))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((trained / "config.yaml").read_text())
    done = lehr("generate", tmp_path, "lehr")
    assert done.returncode == 2, done.stderr
    assert "has no checkpoint yet; train it with: lehr train" in done.stderr
