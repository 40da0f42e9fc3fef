"""One small training run, twice: by plain torch on one process (the oracle), and by an engine in any layout."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from optim_oracles import rule_for
from torch import Tensor, nn

from model.attention import KERNELS, AttentionMask
from model.config import ModelConfig
from model.init import initialise
from model.layers import TorchLayers
from model.transformer import Transformer
from optim.adamw import AdamWConfig
from optim.groups import rule_of
from optim.optimizer import OptimizerConfig
from optim.projection import ProjectedConfig
from parallel.build import ComputeConfig, TrainableModel, build
from parallel.chunk import MicroBatch
from parallel.config import ParallelConfig
from parallel.engines.engine import Slice
from parallel.mesh import Mesh, make_mesh

ROWS, SEQ_LENGTH, VOCABULARY, SEED = 8, 32, 256, 11

# Every kind of layout that gives the same run.
PARITY_LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {},
    "tensor2": {"tensor": 2},
    "tensor2-sequence": {"tensor": 2, "sequence": True},
    "pipeline2": {"pipeline": 2},
    "pipeline2-interleaved": {"pipeline": 2, "virtual_stages": 2},
    "data2-zero0": {"data": 2, "zero": 0},
    "data2-zero1": {"data": 2, "zero": 1},
    "data2-zero2": {"data": 2, "zero": 2},
    "data2-zero3": {"data": 2, "zero": 3},
    "data2-zero1-offload": {"data": 2, "zero": 1, "offload": "optimizer"},
    "data2-zero2-offload": {"data": 2, "zero": 2, "offload": "optimizer"},
    "tensor2-data2-zero1": {"tensor": 2, "data": 2, "zero": 1},
    "tensor2-data2-zero2": {"tensor": 2, "data": 2, "zero": 2},
    "tensor2-data2-zero3": {"tensor": 2, "data": 2, "zero": 3},
    "pipeline2-data2-zero1": {"pipeline": 2, "data": 2, "zero": 1},
    "pipeline4": {"pipeline": 4},
    "tensor2-pipeline2-sequence": {"tensor": 2, "pipeline": 2, "sequence": True},
    "tensor2-pipeline2-data2-zero1": {"tensor": 2, "pipeline": 2, "data": 2, "zero": 1},
}
# Of the optimizers that need whole matrices.
OPTIMIZER_SETTINGS: dict[str, dict[str, Any]] = {
    "adamp": {"lr": 1e-3},
    "conda": {"lr": 2e-3, "refresh_interval": 7},
    "muon": {"lr": 2e-3},
    "sgdp": {"lr": 1e-2},
}


@dataclass(frozen=True)
class Trial:
    """What is trained and how; everything a rank needs, in plain values."""

    model: dict[str, Any] = field(default_factory=dict)
    parallel: dict[str, Any] = field(default_factory=dict)
    compute: dict[str, Any] = field(default_factory=dict)
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
    diagnostics: dict[str, float]  # of the last step


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
    """Plain torch: whole matrices, full logits, torch's cross-entropy, clipping and AdamW, else the plain rules."""
    config = trial.model_config()
    model = Transformer(config, seq_length=SEQ_LENGTH, layers=TorchLayers(), attend=KERNELS["sdpa"])
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=SEED)
    parameters = dict(model.named_parameters())
    adamw = torch_adamw(parameters, trial.optimizer) if isinstance(trial.optimizer, AdamWConfig) else None
    optimizer = adamw or Plain(parameters, trial)
    losses, norms = [], []
    for batch in itertools.islice(global_batches(all_tokens=trial.all_tokens), trial.steps):
        attention_mask = AttentionMask.from_documents(batch.documents, kernel="sdpa", dtype=torch.float32)
        hidden_TBD = model(batch.tokens, attention_mask, batch.positions)
        logits_BTV = model.logits(hidden_TBD).transpose(0, 1)
        loss = nn.functional.cross_entropy(logits_BTV[batch.mask], batch.targets[batch.mask])
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(parameters.values(), trial.optimizer.clip_grad_norm).item())
        losses.append(loss.item())
        optimizer.step()
        model.zero_grad()
    weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    return Trajectory(losses, norms, weights, optimizer.diagnostics() if isinstance(optimizer, Plain) else {})


def torch_adamw(parameters: Mapping[str, nn.Parameter], config: AdamWConfig) -> torch.optim.AdamW:
    groups = []
    for name, parameter in parameters.items():
        groups.append({"params": [parameter], "weight_decay": rule_of(config.table, name).decay(config.weight_decay)})
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps)


class Plain:
    """The plain rules, in float64: singular vectors as exact as can be."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], trial: Trial) -> None:
        self._parameters = parameters
        self._lr = trial.optimizer.lr
        self._rules = {name: rule_for(trial.optimizer, name) for name in parameters}
        self._weights = {name: parameter.detach().double() for name, parameter in parameters.items()}
        self._states = {name: self._rules[name].start(weight) for name, weight in self._weights.items()}
        self._projects = isinstance(trial.optimizer, ProjectedConfig)

    @torch.no_grad()
    def step(self) -> None:
        for name, parameter in self._parameters.items():
            assert parameter.grad is not None
            weight, grad = self._weights[name], parameter.grad.double()
            self._weights[name] = self._rules[name].step(weight, grad, self._states[name], self._lr)
            parameter.copy_(self._weights[name])

    def diagnostics(self) -> dict[str, float]:
        """As the optimizers': the share of steps in which a matrix was projected, by `fire_rate/NAME`."""
        if not self._projects:
            return {}
        return {f"fire_rate/{name}": state.fired / state.t for name, state in self._states.items() if state.m.ndim > 1}


def start(trial: Trial, mesh: Mesh | None = None) -> tuple[Mesh, TrainableModel]:
    """This rank's engine; on a mesh that is there already where one is given."""
    parallel = ParallelConfig(**trial.parallel)
    mesh = mesh or make_mesh(parallel, timeout_seconds=60)
    parts = build(
        trial.model_config(),
        parallel,
        trial.optimizer,
        mesh,
        compute=ComputeConfig(**trial.compute),
        seq_length=SEQ_LENGTH,
        micro_batches=ROWS // (mesh.data.size * trial.micro_batch_size),
        seed=SEED,
    )
    return mesh, parts


def local_micro_batches(batch: GlobalBatch, trial: Trial, mesh: Mesh, parts: TrainableModel) -> list[MicroBatch]:
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
                parts.build_attention_mask(batch.documents[part]),
            )
        )
    return micro_batches


def on_a_rank(trial: Trial, mesh: Mesh | None = None) -> Trajectory:
    """The run as one rank of a layout. To be given to `processes.run_ranks`."""
    mesh, parts = start(trial, mesh)
    losses, norms = [], []
    diagnostics: dict[str, float] = {}
    for batch in itertools.islice(global_batches(all_tokens=trial.all_tokens), trial.steps):
        micro_batches = local_micro_batches(batch, trial, mesh, parts)
        result = parts.engine.train_step(micro_batches, lr=trial.optimizer.lr)
        assert not result.skipped
        losses.append(result.nll / int(batch.mask.sum()))
        norms.append(result.grad_norm)
        diagnostics = result.diagnostics
    weights = {
        name.removeprefix("model."): whole(part, mesh)
        for name, part in parts.engine.state(saving=True).items()
        if name.startswith("model.")
    }
    return Trajectory(losses, norms, weights, diagnostics)


def whole(part: Slice, mesh: Mesh) -> Tensor:
    """A copy of a tensor of an engine's state, the tensor ranks' slices put together."""
    tensor = part.tensor.detach().contiguous()
    if part.dim is None:
        return tensor.clone()
    slices = [torch.empty_like(tensor) for _ in range(mesh.tensor.size)]
    torch.distributed.all_gather(slices, tensor, group=mesh.tensor.group)
    return torch.cat(slices, part.dim)


def all_on_a_rank(trials: Mapping[str, Trial]) -> dict[str, Trajectory]:
    """Several runs in one layout, one after the other in the same processes."""
    mesh = make_mesh(ParallelConfig(**next(iter(trials.values())).parallel), timeout_seconds=60)
    return {name: on_a_rank(trial, mesh) for name, trial in trials.items()}


def ranks_of(parallel: Mapping[str, Any]) -> int:
    """How many ranks a layout has."""
    return ParallelConfig(**parallel).ranks


def merged(trajectories: list[Trajectory]) -> Trajectory:
    """All ranks' view as one: losses, norms, diagnostics must be the same on all; weights are put together."""
    for other in trajectories[1:]:
        assert other.losses == trajectories[0].losses
        assert other.grad_norms == trajectories[0].grad_norms
        assert other.diagnostics == trajectories[0].diagnostics
    weights = merged_weights([part.weights for part in trajectories])
    return replace(trajectories[0], weights=weights)


def merged_weights(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What the ranks hold, put together; of several copies, the lowest rank's."""
    return {name: weight for part in reversed(parts) for name, weight in part.items()}
