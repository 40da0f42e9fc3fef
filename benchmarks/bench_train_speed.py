"""Training tokens/s of lehr's model against the Llamas of Hugging Face and litgpt, in the same process.

Every contender trains the same shapes on the same random tokens with the same optimizer. They take turns (A B C A B C
...), so that other work on the machine slows all of them alike. The script reports the median step of each, and the
median over the rounds of its ratio to the step of the fastest rival in that round.

    python benchmarks/bench_train_speed.py --rounds 15 --compile

litgpt requires an older huggingface-hub than constraints.txt has: install it in an environment of its own, or with
--no-deps next to lightning and jsonargparse. Without litgpt the script skips it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.attention import KERNELS
from model.config import ModelConfig
from model.init import initialise
from model.layers import TorchLayers
from model.transformer import Transformer

LossOf = Callable[[Tensor, Tensor], Tensor]  # tokens [B, T], targets [B, T] -> mean loss
SIZES = {"layers": 8, "hidden": 256, "heads": 4, "kv_heads": 4, "ffn": 704, "vocab": 8192, "seq": 512, "batch": 4}


def sizes(shape: argparse.Namespace, *names: str) -> dict[str, int]:
    """Returns the sizes of the shape, in the order of SIZES, under the names that a contender's config has for them."""
    return {name: getattr(shape, size) for name, size in zip(names, SIZES, strict=False)}


def lehr(shape: argparse.Namespace, compiled: bool) -> tuple[nn.Module, LossOf]:
    """Builds lehr's transformer and its loss."""
    names = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "ffn_size", "vocab_size")
    config = ModelConfig(**sizes(shape, *names))
    model = Transformer(config, seq_length=shape.seq, layers=TorchLayers(), attend=KERNELS["blocked"])
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=0)
    if compiled:
        model.compile_blocks()
    positions_BT = torch.arange(shape.seq).expand(shape.batch, shape.seq)
    weights_BT = torch.full((shape.batch, shape.seq), 1 / (shape.batch * shape.seq))

    def loss(tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return model.loss(model(tokens_BT, None, positions_BT), targets_BT, weights_BT).total

    return model, loss


def hugging_face(shape: argparse.Namespace, compiled: bool) -> tuple[nn.Module, LossOf]:
    """Builds transformers.LlamaForCausalLM with SDPA, and its own loss."""
    from transformers import LlamaConfig, LlamaForCausalLM

    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    values = sizes(shape, *names, "vocab_size", "max_position_embeddings")
    model = LlamaForCausalLM(LlamaConfig(**values, attn_implementation="sdpa", use_cache=False))
    run = torch.compile(model) if compiled else model

    def loss(tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        mean: Tensor = run(input_ids=tokens_BT, labels=tokens_BT, shift_labels=targets_BT).loss
        return mean

    return model, loss


def litgpt(shape: argparse.Namespace, compiled: bool) -> tuple[nn.Module, LossOf]:
    """Builds litgpt.GPT with the loss of its pretraining script."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    names = ("n_layer", "n_embd", "n_head", "n_query_groups", "intermediate_size", "vocab_size", "block_size")
    model = GPT(
        Config(
            **sizes(shape, *names),
            padded_vocab_size=shape.vocab,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
        )
    )
    run = torch.compile(model) if compiled else model

    def loss(tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        mean: Tensor = chunked_cross_entropy(run(tokens_BT), targets_BT, chunk_size=0)
        return mean

    return model, loss


CONTENDERS = {"lehr": lehr, "hugging_face": hugging_face, "litgpt": litgpt}


class Run:
    """A contender with its model, its optimizer and the seconds of its steps."""

    def __init__(self, name: str, build: Callable[[], tuple[nn.Module, LossOf]]) -> None:
        torch.manual_seed(0)
        self.name = name
        self.model, self.loss = build()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.seconds: list[float] = []

    def step(self, tokens_BT: Tensor, targets_BT: Tensor) -> float:
        """Takes one step; returns its loss."""
        start = time.perf_counter()
        loss = self.loss(tokens_BT, targets_BT)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.seconds.append(time.perf_counter() - start)
        return float(loss.detach())


def main() -> None:
    """Reads the arguments, runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also run every contender under torch.compile")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    runs = []
    for compiled in (False, True) if args.compile else (False,):
        for name in args.only:
            try:
                runs.append(Run(name + ("+compile" if compiled else ""), lambda: CONTENDERS[name](args, compiled)))  # noqa: B023
            except ImportError as error:
                print(f"{name} is skipped: {error}")
    tokens = torch.randint(args.vocab, (args.batch, args.seq + 1), generator=torch.Generator().manual_seed(1))
    batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    for run in runs:
        losses = [run.step(*batch) for _ in range(3)]
        print(f"{run.name}: first step {run.seconds[0]:.1f} s, losses {', '.join(f'{loss:.3f}' for loss in losses)}")
        run.seconds.clear()
    for _ in range(args.rounds):
        for run in runs:
            run.step(*batch)

    rivals = [run for run in runs if not run.name.startswith("lehr")]
    print(f"{'':24}{'ms/step':>10}{'tokens/s':>10}{'vs fastest rival':>18}")
    for run in runs:
        median = statistics.median(run.seconds)
        ratio = "" if not rivals else f"{_ratio(run, rivals):.3f}"
        print(f"{run.name:24}{median * 1e3:10.1f}{args.batch * args.seq / median:10.0f}{ratio:>18}")


def _ratio(run: Run, rivals: list[Run]) -> float:
    """Returns the median over rounds of the fastest rival's time divided by this run's time."""
    fastest = min(rivals, key=lambda rival: statistics.median(rival.seconds))
    return statistics.median(a / b for a, b in zip(fastest.seconds, run.seconds, strict=True))


if __name__ == "__main__":
    main()
