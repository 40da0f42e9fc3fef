"""How a run computes where its config says `auto`: rank 0 chooses for all, and a run that goes on keeps the choice.

Kernels and compiled blocks round differently, so no timing and no free memory decides, and run.json has the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Literal, TypeVar, get_args

from model.attention import Kernel
from model.loss_kernels import LossKernelName, choose_loss_kernel, why_not_loss_kernel
from parallel.agree import agree
from parallel.attention_kernel import usable_kernel, why_not_here
from parallel.build import ComputeConfig
from parallel.compiled_check import RunShapes, check_compiled_block, why_not_compiled
from parallel.mesh import Mesh

K = TypeVar("K", bound=str)


@dataclass(frozen=True)
class KernelKind(Generic[K]):
    """A kind of kernel, and the functions that choose one of its kernels for this rank."""

    name: str  # attention kernel, ...
    kernels: tuple[K, ...]
    choose: Callable[[K | Literal["auto"]], K]  # raises UserError if the wanted one cannot be used
    why_not: Callable[[K], str | None]  # why a kernel cannot be used


def agree_on_compute(
    wanted: ComputeConfig, shapes: RunShapes, mesh: Mesh, *, recorded: Mapping[str, Any]
) -> tuple[ComputeConfig, list[str]]:
    """Resolves `auto` for all ranks. Returns warnings too, if the run does not compute as until now. A collective.

    `recorded` are the choices of the run's last start (see `choices_of`), on rank 0; `auto` keeps them. Raises
    UserError on every rank if what is wanted cannot be used on one of them.
    """
    dtype, model = wanted.dtype, shapes.model
    attention, for_attention = agree_on_kernel(
        KernelKind[Kernel](
            "attention kernel",
            get_args(Kernel),
            lambda kernel: usable_kernel(kernel, model, mesh, dtype=dtype),
            lambda kernel: why_not_here(kernel, model, mesh, dtype=dtype),
        ),
        wanted.attention,
        mesh,
        recorded=recorded.get("attention_kernel"),
    )
    cross_entropy, for_cross_entropy = agree_on_kernel(
        KernelKind[LossKernelName](
            "cross-entropy kernel",
            get_args(LossKernelName),
            partial(choose_loss_kernel, device=mesh.device, dtype=dtype),
            partial(why_not_loss_kernel, device=mesh.device, dtype=dtype),
        ),
        wanted.cross_entropy,
        mesh,
        recorded=recorded.get("cross_entropy_kernel"),
    )
    chosen = replace(wanted, attention=attention, cross_entropy=cross_entropy)
    compiled, for_compiled = _agree_on_compilation(chosen, shapes, mesh, recorded=recorded.get("compiled"))
    warnings = [each for each in (for_attention, for_cross_entropy, for_compiled) if each is not None]
    return replace(chosen, compile=compiled), warnings


def choices_of(compute: ComputeConfig) -> dict[str, str | bool]:
    """Returns what run.json records of a resolved config."""
    return {
        "attention_kernel": compute.attention,
        "cross_entropy_kernel": compute.cross_entropy,
        "compiled": compute.compile,
    }


def agree_on_kernel(
    kind: KernelKind[K], wanted: K | Literal["auto"], mesh: Mesh, *, recorded: object
) -> tuple[K, str | None]:
    """Returns a kernel for all ranks, and a warning if it is not the run's until now. A collective."""

    def choose() -> tuple[K, str | None] | None:
        if mesh.rank != 0:
            return None
        before = next((kernel for kernel in kind.kernels if kernel == recorded), None)
        if wanted != "auto" or before is None:
            return kind.choose(wanted), None
        reason = kind.why_not(before)
        if reason is None:
            return before, None
        chosen = kind.choose("auto")
        warning = f"the run has used the {kind.name} {before} until now, which cannot be used here: {reason}"
        return chosen, f"{warning}; it goes on with {chosen}, which rounds differently"

    kernel, warning = agree(choose)[0]
    agree(lambda: kind.choose(kernel) if mesh.rank else None)
    return kernel, warning


def _agree_on_compilation(
    compute: ComputeConfig, shapes: RunShapes, mesh: Mesh, *, recorded: object
) -> tuple[bool, str | None]:
    """Returns whether blocks are compiled, and a warning if `auto` compiles none where it would. A collective.

    `auto` compiles on a GPU, unless the run began without, or a block breaks into several graphs, or cannot be compiled
    as it is run eagerly.
    """
    if compute.compile != "auto":
        if compute.compile:
            check_compiled_block(shapes, mesh, compute=compute)
        return compute.compile, None
    began: bool | None = agree(lambda: recorded if mesh.rank == 0 and isinstance(recorded, bool) else None)[0]
    if not (mesh.device.type == "cuda" if began is None else began):
        return False, None
    reason = why_not_compiled(shapes, mesh, compute=compute)
    return reason is None, None if reason is None else f"train.compile = auto: no block is compiled, because {reason}"
