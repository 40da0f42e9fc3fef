"""A small training run, by plain torch on one process (the oracle) and by an engine in any layout."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from optim_oracles import RULES, rule_for
from processes import run_ranks
from torch import Tensor, nn

from model.attention import KERNELS, AttentionMask
from model.config import ModelConfig
from model.init import initialise
from model.layers import TorchLayers
from model.transformer import Transformer
from optim.adamw import AdamWConfig
from optim.groups import rule_of
from optim.optimizer import OPTIMIZERS, OptimizerConfig
from optim.projection import ProjectedOptimizerConfig
from parallel.build import ComputeConfig, TrainableModel, build
from parallel.chunk import MicroBatch
from parallel.config import ParallelConfig
from parallel.engines.slices import Slice
from parallel.mesh import Mesh, make_mesh

ROWS, SEQ_LENGTH, VOCABULARY, SEED = 8, 32, 256, 11
# configs/demo.yaml's model, whose embedding has 1.6M elements.
DEMO_MODEL: dict[str, Any] = {
    **{"num_layers": 4, "hidden_size": 192, "num_heads": 6, "num_kv_heads": 2, "ffn_size": 512},
    **{"vocab_size": 8192, "tied_embeddings": True, "qk_norm": False},
}

# Layouts of every kind. Each gives the same run.
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


@dataclass(frozen=True)
class Trial:
    """The model, the layout and the optimizer of a run, as values that can be sent to a rank."""

    model: dict[str, Any] = field(default_factory=dict)
    parallel: dict[str, Any] = field(default_factory=dict)
    compute: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerConfig = AdamWConfig(lr=2e-3, weight_decay=0.1, clip_grad_norm=0.5)  # noqa: RUF009 (frozen)
    steps: int = 10
    micro_batch_size: int = 2
    all_tokens: bool = False  # otherwise 16 of them, which ten steps learn; first-layer gradients then have rank 16

    def model_config(self) -> ModelConfig:
        """Returns the config of a model of four layers with grouped queries and QK-norm, changed by `model`."""
        small = {"num_layers": 4, "hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 96}
        return ModelConfig.model_validate({**small, "vocab_size": VOCABULARY, "qk_norm": True, **self.model})


@dataclass(frozen=True)
class Trajectory:
    """The result of a run: losses and gradient norms by step, final weights in full (of one rank: those it holds)."""

    losses: list[float]
    grad_norms: list[float]
    weights: dict[str, Tensor]
    diagnostics: dict[str, float]  # of the last step


@dataclass(frozen=True)
class GlobalBatch:
    """The rows of one step. Each row has two documents; the loss masks of the rows differ in size."""

    tokens: Tensor
    targets: Tensor
    mask: Tensor
    positions: Tensor
    documents: Tensor


def global_batches(*, all_tokens: bool = False) -> Iterator[GlobalBatch]:
    """Yields the batches of all steps, the same for every run, without end."""
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


def oracle(trial: Trial, dtype: torch.dtype = torch.float32) -> Trajectory:
    """Trains with plain torch: full logits, torch's cross-entropy, clipping and AdamW; other methods by plain rules.

    The gradient norm is that of float64, whatever the dtype of weights and gradients.
    """
    config = trial.model_config()
    model = Transformer(config, seq_length=SEQ_LENGTH, layers=TorchLayers(), attend=KERNELS["sdpa"])
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=SEED)
    model.to(dtype)
    parameters = dict(model.named_parameters())
    adamw = torch_adamw(parameters, trial.optimizer) if isinstance(trial.optimizer, AdamWConfig) else None
    optimizer = adamw or PlainOptimizer(parameters, trial)
    losses, norms = [], []
    for batch in itertools.islice(global_batches(all_tokens=trial.all_tokens), trial.steps):
        attention_mask = AttentionMask.from_documents(batch.documents, kernel="sdpa", dtype=dtype)
        hidden_TBD = model(batch.tokens, attention_mask, batch.positions)
        logits_BTV = model.logits(hidden_TBD).transpose(0, 1)
        loss = nn.functional.cross_entropy(logits_BTV[batch.mask], batch.targets[batch.mask])
        loss.backward()
        norm = torch.cat([gradient_of(parameter).flatten().double() for parameter in parameters.values()]).norm()
        nn.utils.clip_grads_with_norm_(parameters.values(), trial.optimizer.clip_grad_norm, norm)
        norms.append(norm.item())
        losses.append(loss.item())
        optimizer.step()
        model.zero_grad()
    weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    return Trajectory(losses, norms, weights, optimizer.diagnostics() if isinstance(optimizer, PlainOptimizer) else {})


def gradient_of(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def torch_adamw(parameters: Mapping[str, nn.Parameter], config: AdamWConfig) -> torch.optim.AdamW:
    groups = []
    for name, parameter in parameters.items():
        groups.append({"params": [parameter], "weight_decay": rule_of(config.table, name).decay(config.weight_decay)})
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps)


class PlainOptimizer:
    """The plain rules of optim_oracles in float64, for singular vectors as exact as possible."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], trial: Trial) -> None:
        self._parameters = parameters
        self._lr = trial.optimizer.lr
        self._rules = {name: rule_for(trial.optimizer, name) for name in parameters}
        self._weights = {name: parameter.detach().double() for name, parameter in parameters.items()}
        self._states = {name: self._rules[name].start(weight) for name, weight in self._weights.items()}
        self._projects = isinstance(trial.optimizer, ProjectedOptimizerConfig)

    @torch.no_grad()
    def step(self) -> None:
        for name, parameter in self._parameters.items():
            weight, grad = self._weights[name], gradient_of(parameter).double()
            self._weights[name] = self._rules[name].step(weight, grad, self._states[name], self._lr)
            parameter.copy_(self._weights[name])

    def diagnostics(self) -> dict[str, float]:
        """Returns `fire_rate/NAME`, the share of steps in which a matrix was projected, as the optimizers do."""
        if not self._projects:
            return {}
        tested = {name: state for name, state in self._states.items() if state.m.ndim > 1}
        return {f"fire_rate/{name}": state.projections / state.t for name, state in tested.items()}


def reference(trial: Trial) -> Trajectory:
    """Returns the run that every layout must give: the oracle's, or that of one process if no plain rule is written."""
    if trial.optimizer.name in RULES:
        return oracle(trial)
    return merged(run_ranks(1, on_a_rank, replace(trial, parallel={}), timeout=120))


def example(name: str, **settings: Any) -> OptimizerConfig:
    """Returns the first example of a registered optimizer, with some settings changed."""
    return OPTIMIZERS.parse({**OPTIMIZERS[name].examples()[0].to_plain(), **settings})


def start(trial: Trial, mesh: Mesh | None = None) -> tuple[Mesh, TrainableModel]:
    """Returns the mesh, made here unless one is given, and this rank's stages and engine, with initial weights."""
    mesh, parts = allocated(trial, mesh)
    parts.draw_weights()
    return mesh, parts


def allocated(trial: Trial, mesh: Mesh | None = None) -> tuple[Mesh, TrainableModel]:
    """Returns the same as `start` without initial weights."""
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
        total_steps=trial.steps,
    )
    return mesh, parts


def local_micro_batches(batch: GlobalBatch, trial: Trial, mesh: Mesh, parts: TrainableModel) -> list[MicroBatch]:
    """Returns the micro-batches of a global batch that this data rank trains on."""
    rows = ROWS // mesh.data.size
    first = mesh.data.rank * rows
    weights = batch.mask.float() / batch.mask.sum()
    micro_batches = []
    for start_row in range(first, first + rows, trial.micro_batch_size):
        part = slice(start_row, start_row + trial.micro_batch_size)
        micro_batches.append(
            MicroBatch(
                batch.tokens[part].to(mesh.device),
                batch.targets[part].to(mesh.device),
                weights[part].to(mesh.device),
                batch.positions[part].to(mesh.device),
                parts.build_attention_mask(batch.documents[part]),
            )
        )
    return micro_batches


def on_a_rank(trial: Trial, mesh: Mesh | None = None) -> Trajectory:
    """Trains as one rank of a layout. To be given to `processes.run_ranks`."""
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
        name.removeprefix("model."): full_tensor(part, mesh)
        for name, part in parts.engine.state(saving=True).items()
        if name.startswith("model.")
    }
    return Trajectory(losses, norms, weights, diagnostics)


def made_up(name: str, shape: Sequence[int]) -> Tensor:
    """Returns a full tensor that no engine holds by itself."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def full_tensor(part: Slice, mesh: Mesh) -> Tensor:
    """Returns a copy of a tensor of an engine's state, gathered over the tensor ranks."""
    tensor = part.tensor.detach().contiguous()
    if part.dim is None:
        return tensor.clone()
    shards = [torch.empty_like(tensor) for _ in range(mesh.tensor.size)]
    torch.distributed.all_gather(shards, tensor, group=mesh.tensor.group)
    return torch.cat(shards, part.dim)


def all_on_a_rank(trials: Mapping[str, Trial]) -> dict[str, Trajectory]:
    """Trains several runs in one layout, one after the other in the same processes."""
    mesh = make_mesh(ParallelConfig(**next(iter(trials.values())).parallel), timeout_seconds=60)
    return {name: on_a_rank(trial, mesh) for name, trial in trials.items()}


def ranks_of(parallel: Mapping[str, Any]) -> int:
    """Returns the number of ranks of a layout."""
    return ParallelConfig(**parallel).ranks


def merged(trajectories: list[Trajectory]) -> Trajectory:
    """Merges the results of all ranks. Losses, norms and diagnostics must be the same on all of them."""
    for other in trajectories[1:]:
        assert other.losses == trajectories[0].losses
        assert other.grad_norms == trajectories[0].grad_norms
        assert other.diagnostics == trajectories[0].diagnostics
    weights = merged_weights([part.weights for part in trajectories])
    return replace(trajectories[0], weights=weights)


def merged_weights(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Merges the weights that the ranks hold; of several copies, it takes the lowest rank's."""
    return {name: weight for part in reversed(parts) for name, weight in part.items()}
