"""One small training run, twice: by plain torch on one process (the oracle), and by an engine in any layout."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from model.attention import KERNELS, Documents
from model.config import ModelConfig
from model.init import initialise
from model.layers import WholeLayers
from model.transformer import Transformer
from optim.adamw import AdamWConfig
from optim.groups import rule_of
from optim.optimizer import OptimizerConfig
from parallel.build import Arithmetic, Parts, build
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, make_mesh
from parallel.stage import MicroBatch

ROWS, SEQ_LENGTH, VOCABULARY, SEED = 8, 32, 256, 11


@dataclass(frozen=True)
class Trial:
    """What is trained and how; everything a rank needs, in plain values."""

    model: dict[str, Any] = field(default_factory=dict)
    parallel: dict[str, Any] = field(default_factory=dict)
    arithmetic: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerConfig = AdamWConfig(lr=2e-3, weight_decay=0.1, clip_grad_norm=0.5)  # noqa: RUF009 (frozen)
    steps: int = 10
    micro_batch_size: int = 2
    all_tokens: bool = False  # else 16 of them: learned in ten steps, and gradients of the first layer of rank 16

    def model_config(self) -> ModelConfig:
        """Four layers, grouped queries, QK-norm."""
        small = {"num_layers": 4, "hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 96}
        return ModelConfig.model_validate({**small, "vocab_size": VOCABULARY, "qk_norm": True, **self.model})


@dataclass(frozen=True)
class Trajectory:
    """Of one run: what every step gave, and the final weights, whole (by rank: of the parameters it holds)."""

    losses: list[float]
    grad_norms: list[float]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class GlobalBatch:
    """One step's rows, with loss masks of different sizes by row and two documents a row."""

    tokens: Tensor
    targets: Tensor
    mask: Tensor
    positions: Tensor
    documents: Tensor


def global_batches(*, all_tokens: bool = False) -> Iterator[GlobalBatch]:
    """The same endless sequence for every run."""
    for step in itertools.count():
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, VOCABULARY, (ROWS, SEQ_LENGTH + 1), generator=generator)
        tokens = tokens if all_tokens else tokens % 16 * 3
        border = torch.randint(4, SEQ_LENGTH - 4, (ROWS, 1), generator=generator)
        documents = (torch.arange(SEQ_LENGTH)[None] >= border).int()
        positions = torch.arange(SEQ_LENGTH)[None] - documents * border
        masked_share = torch.linspace(0.0, 0.8, ROWS)[:, None]
        mask = torch.rand(ROWS, SEQ_LENGTH, generator=generator) >= masked_share
        yield GlobalBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), mask, positions, documents)


def oracle(trial: Trial) -> Trajectory:
    """Plain torch: whole matrices, full logits, torch's cross-entropy, clipping and AdamW."""
    config = trial.model_config()
    optimizer_config = trial.optimizer
    assert isinstance(optimizer_config, AdamWConfig)
    model = Transformer(config, seq_length=SEQ_LENGTH, layers=WholeLayers(), attend=KERNELS["sdpa"])
    initialise(model.named_parameters(), config, seed=SEED)
    groups = []
    for name, parameter in model.named_parameters():
        rule = rule_of(optimizer_config.table, name)
        groups.append({"params": [parameter], "weight_decay": rule.decay(optimizer_config.weight_decay)})
    optimizer = torch.optim.AdamW(
        groups,
        lr=optimizer_config.lr,
        betas=(optimizer_config.beta1, optimizer_config.beta2),
        eps=optimizer_config.eps,
    )
    losses, norms = [], []
    for batch in itertools.islice(global_batches(all_tokens=trial.all_tokens), trial.steps):
        documents = Documents.of(batch.documents, kernel="sdpa", dtype=torch.float32)
        hidden_TBD = model(batch.tokens, documents, batch.positions)
        logits_BTV = model.logits(hidden_TBD).transpose(0, 1)
        loss = nn.functional.cross_entropy(logits_BTV[batch.mask], batch.targets[batch.mask])
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), optimizer_config.clip_grad_norm).item())
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return Trajectory(losses, norms, {name: parameter.detach().clone() for name, parameter in model.named_parameters()})


def start(trial: Trial) -> tuple[Mesh, Parts]:
    """This rank's engine."""
    parallel = ParallelConfig(**trial.parallel)
    mesh = make_mesh(parallel, timeout_seconds=60)
    parts = build(
        trial.model_config(),
        parallel,
        trial.optimizer,
        mesh,
        arithmetic=Arithmetic(**trial.arithmetic),
        seq_length=SEQ_LENGTH,
        micro_batches=ROWS // (mesh.data.size * trial.micro_batch_size),
        seed=SEED,
    )
    return mesh, parts


def local_micro_batches(batch: GlobalBatch, trial: Trial, mesh: Mesh, parts: Parts) -> list[MicroBatch]:
    """This data rank's part of a global batch."""
    rows = ROWS // mesh.data.size
    first = mesh.data.rank * rows
    weights = batch.mask.float() / batch.mask.sum()
    micro_batches = []
    for start_row in range(first, first + rows, trial.micro_batch_size):
        part = slice(start_row, start_row + trial.micro_batch_size)
        micro_batches.append(
            MicroBatch(
                batch.tokens[part],
                batch.targets[part],
                weights[part],
                batch.positions[part],
                parts.documents(batch.documents[part]),
            )
        )
    return micro_batches


def on_a_rank(trial: Trial) -> Trajectory:
    """The run as one rank of a layout. To be given to `processes.run_ranks`."""
    mesh, parts = start(trial)
    losses, norms = [], []
    for batch in itertools.islice(global_batches(all_tokens=trial.all_tokens), trial.steps):
        micro_batches = local_micro_batches(batch, trial, mesh, parts)
        result = parts.engine.train_step(micro_batches, lr=trial.optimizer.lr)
        assert not result.skipped
        losses.append(result.nll / int(batch.mask.sum()))
        norms.append(result.grad_norm)
    weights = {}
    for name, part in parts.engine.state(saving=True).items():
        if name.startswith("model."):
            whole = part.tensor.detach()
            if part.dim is not None:
                slices = [torch.empty_like(whole).contiguous() for _ in range(mesh.tensor.size)]
                torch.distributed.all_gather(slices, whole.contiguous(), group=mesh.tensor.group)
                whole = torch.cat(slices, part.dim)
            weights[name.removeprefix("model.")] = whole.clone()
    return Trajectory(losses, norms, weights)


def merged(trajectories: list[Trajectory]) -> Trajectory:
    """All ranks' view as one: losses and norms must be the same on all; weights are put together."""
    for other in trajectories[1:]:
        assert other.losses == trajectories[0].losses
        assert other.grad_norms == trajectories[0].grad_norms
    weights = {name: weight for part in reversed(trajectories) for name, weight in part.weights.items()}
    return Trajectory(trajectories[0].losses, trajectories[0].grad_norms, weights)
