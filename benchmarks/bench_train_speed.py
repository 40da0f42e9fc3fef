"""Training tokens/s of lehr's model against Hugging Face's Llama and litgpt's: same shapes, data, optimizer, process.

Every contender trains the same shapes on the same random tokens, in turns (A B C A B C ...), so that whatever else the
machine does meets all alike. Reported: each one's median, and the median over the rounds of its ratio to the fastest
rival's step in that round.

    python benchmarks/bench_train_speed.py --rounds 15 --compile

litgpt asks for an older huggingface-hub than the tested set has: have it in an environment of its own, or install it
with --no-deps beside lightning and jsonargparse. Without it, it is left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model.attention import KERNELS
from model.config import ModelConfig
from model.init import initialise
from model.layers import TorchLayers
from model.transformer import Transformer

LossOf = Callable[[Tensor, Tensor], Tensor]  # tokens [B, T], targets [B, T] -> mean loss


def lehr(shape: argparse.Namespace, compiled: bool) -> tuple[nn.Module, LossOf]:
    """This repository's transformer."""
    config = ModelConfig(
        num_layers=shape.layers,
        hidden_size=shape.hidden,
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        ffn_size=shape.ffn,
        vocab_size=shape.vocab,
    )
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
    """transformers.LlamaForCausalLM with SDPA, and its own loss."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=shape.layers,
            hidden_size=shape.hidden,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            intermediate_size=shape.ffn,
            vocab_size=shape.vocab,
            max_position_embeddings=shape.seq,
            attn_implementation="sdpa",
            use_cache=False,
        )
    )
    run = torch.compile(model) if compiled else model

    def loss(tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        mean: Tensor = run(input_ids=tokens_BT, labels=tokens_BT, shift_labels=targets_BT).loss
        return mean

    return model, loss


def litgpt(shape: argparse.Namespace, compiled: bool) -> tuple[nn.Module, LossOf]:
    """litgpt.GPT with the loss of its pretraining script."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    model = GPT(
        Config(
            n_layer=shape.layers,
            n_embd=shape.hidden,
            n_head=shape.heads,
            n_query_groups=shape.kv_heads,
            intermediate_size=shape.ffn,
            vocab_size=shape.vocab,
            padded_vocab_size=shape.vocab,
            block_size=shape.seq,
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
    """One contender: its model, its optimizer, and how long its steps took."""

    def __init__(self, name: str, build: Callable[[], tuple[nn.Module, LossOf]]) -> None:
        torch.manual_seed(0)
        self.name = name
        self.model, self.loss = build()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.seconds: list[float] = []

    def step(self, tokens_BT: Tensor, targets_BT: Tensor) -> float:
        start = time.perf_counter()
        loss = self.loss(tokens_BT, targets_BT)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.seconds.append(time.perf_counter() - start)
        return float(loss.detach())


def main() -> None:
    """Read the arguments, run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"hidden": 256, "layers": 8, "heads": 4, "kv_heads": 4, "ffn": 704, "vocab": 8192, "seq": 512, "batch": 4}
    for name, value in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also every contender under torch.compile")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    runs = []
    for compiled in (False, True) if args.compile else (False,):
        for name in args.only:
            try:
                runs.append(Run(name + ("+compile" if compiled else ""), lambda: CONTENDERS[name](args, compiled)))  # noqa: B023
            except ImportError as error:
                print(f"{name} is left out: {error}")
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
    """The median over rounds of (the generally fastest rival's time / this one's time)."""
    fastest = min(rivals, key=lambda rival: statistics.median(rival.seconds))
    return statistics.median(a / b for a, b in zip(fastest.seconds, run.seconds, strict=True))


if __name__ == "__main__":
    main()
