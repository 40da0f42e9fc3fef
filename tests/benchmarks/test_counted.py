"""The kernels that `benchmarks/counted.py` counts, against what is known of their number, bytes and FLOPs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from counted import (
    CAUSES,
    FUSED_KERNELS_OF_A_BLOCK,
    ROOT,
    compiled_launches,
    count_step,
    launches_of,
    seconds,
    table,
)
from counted_kernels import HOST_READ, Kernel, KernelTrace
from gpu.models import model_of
from gpu.sizes import Size
from processes import run_ranks

from model.size import non_embedding_parameters
from optim.optimizer import OPTIMIZERS

SEQ_LENGTH = 16


def size_of(num_layers: int) -> Size:
    return Size(num_layers, hidden_size=64, num_heads=4, ffn_size=96, micro_batch_size=3, vocab_size=256)


def steps_of_three_sizes() -> list[list[Kernel]]:
    return [count_step(size_of(num_layers), seq_length=SEQ_LENGTH) for num_layers in (2, 3, 4)]


def host_reads_of_optimizers() -> dict[str, int]:
    names = sorted(OPTIMIZERS.names())
    steps = {name: count_step(size_of(2), seq_length=SEQ_LENGTH, optimizer=name) for name in names}
    return {name: sum(kernel.name == HOST_READ for kernel in step) for name, step in steps.items()}


def traced(run: Callable[[], object]) -> list[Kernel]:
    with KernelTrace(lambda file: None) as trace:
        run()
    return trace.kernels


def test_a_step_has_the_products_of_its_model_and_every_layer_the_same_kernels() -> None:
    pytest.importorskip("triton")
    ((two, three, four),) = run_ranks(1, steps_of_three_sizes, join=False)
    products = [kernel for kernel in two if kernel.cause.startswith("products")]
    size = size_of(2)
    weights = non_embedding_parameters(model_of(size)) + size.vocab_size * size.hidden_size
    assert sum(kernel.flops for kernel in products) == 6 * weights * 2 * size.micro_batch_size * SEQ_LENGTH
    assert sum(kernel.launches for kernel in products) == 2 * 3 * (2 * 7 + 1)  # micro-batches, passes, matrices

    for step in (two, three, four):
        assert [kernel.cause for kernel in step if kernel.name == HOST_READ] == ["optimizer"]  # loss and norm
        # Two calls of AdamW, for matrices and for vectors; one kernel for the norm, and two for its square.
        optimizer = Counter(kernel.name for kernel in step if kernel.cause == "optimizer")
        assert optimizer["_fused_adamw_"] == 2
        assert optimizer["linalg_vector_norm"] == optimizer["_to_copy"] == optimizer["pow"] == 1
        assert Counter(kernel.name for kernel in step if kernel.cause == "accumulation") == {
            "_foreach_copy_": 2,  # the first micro-batch's gradients are copied, the second's are rounded to float32
            "_foreach_add_": 1,
        }

    of_two, of_three, of_four = (Counter(kernel.cause for kernel in step) for step in (two, three, four))
    blocks = {"norms", "rotary", "SwiGLU", "attention", "products of the blocks"}
    rest = {"cross-entropy", "products of the head", "residual, embedding", "optimizer", "accumulation"}
    assert set(of_two) == blocks | rest
    for cause in of_two:
        assert of_four[cause] - of_three[cause] == of_three[cause] - of_two[cause], cause
        assert (of_three[cause] > of_two[cause]) == (cause in {*blocks, "residual, embedding"}), cause

    # Each layer has 21 products, 6 kernels of attention and the fused ones, in each of two micro-batches.
    compiled = [
        compiled_launches(step, less, layers=layers) for step, less, layers in ((three, two, 3), (four, three, 4))
    ]
    assert compiled[1] - compiled[0] == 2 * (21 + 6 + FUSED_KERNELS_OF_A_BLOCK)
    assert compiled[0] < launches_of(three)


def test_the_host_waits_once_in_a_step() -> None:
    pytest.importorskip("triton")
    (found,) = run_ranks(1, host_reads_of_optimizers, join=False)
    tests_its_weights = {"adamp", "sgdp"}  # which parameters are projected is decided on the host
    assert found == {name: 2 if name in tests_its_weights else 1 for name in found}


def test_views_and_allocations_are_no_kernels() -> None:
    x = torch.empty(4, 6, device="meta")
    assert traced(lambda: (x.t(), x[1:], x.view(24), x[:, None].expand(4, 3, 6), torch.empty_like(x))) == []


def test_bytes_are_those_read_and_written() -> None:
    x, row = torch.empty(4, 6, device="meta"), torch.empty(6, device="meta")
    (added,) = traced(lambda: x + row)
    assert added.bytes == 4 * (24 + 6 + 24)
    (in_place,) = traced(lambda: x.add_(row.expand(4, 6)))
    assert in_place.bytes == 4 * (24 + 6 + 24)
    (filled,) = traced(lambda: x.zero_())
    assert filled.bytes == 4 * 24
    (cast,) = traced(lambda: x.to(torch.bfloat16))
    assert cast.bytes == 4 * 24 + 2 * 24
    (square,) = traced(lambda: torch.mul(x, x, out=torch.empty_like(x)))
    assert square.bytes == 4 * 48


def test_indexed_operations_move_what_the_index_selects() -> None:
    embeddings, index = torch.empty(1000, 8, device="meta"), torch.empty(3, dtype=torch.int64, device="meta")
    (found,) = traced(lambda: torch.nn.functional.embedding(index, embeddings))
    assert found.bytes == 4 * 2 * 24 + 8 * 3


def test_a_backward_kernel_has_the_cause_of_its_forward_operation() -> None:
    x = torch.empty(4, 6, device="meta", requires_grad=True)
    with KernelTrace(lambda file: "this file" if file == Path(__file__) else None) as trace:
        y = torch.nn.functional.silu(x)
        y.backward(torch.empty_like(y))
    assert [(kernel.name, kernel.cause) for kernel in trace.kernels] == [
        ("silu", "this file"),
        ("silu_backward", "this file"),
    ]


@pytest.mark.parametrize(("tensors", "launches"), [(1, 1), (36, 1), (37, 2), (72, 2)])
def test_a_fused_update_is_a_launch_for_each_36_small_tensors(tensors: int, launches: int) -> None:
    def update() -> None:
        lists = [[torch.empty(8, device="meta") for _ in range(tensors)] for _ in range(4)]
        steps = [torch.empty((), device="meta")] * tensors
        options = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1, "eps": 1e-8}
        torch._fused_adamw_(*lists, [], steps, amsgrad=False, maximize=False, **options)

    assert [each.launches for each in traced(update)] == [launches]


def test_a_large_tensor_takes_several_launches() -> None:
    large = [torch.empty(321 * 65536, device="meta")]
    assert [each.launches for each in traced(lambda: torch._foreach_mul_(large, 2.0))] == [2]


def test_the_table_adds_up() -> None:
    kernels = [
        Kernel("mm", "products", 1, 10**6, 779 * 10**9, torch.bfloat16),
        Kernel("add", "norms", 2, 43 * 10**8, 0, torch.float32),
    ]
    assert [seconds(kernel) for kernel in kernels] == [pytest.approx(1e-3), pytest.approx(1e-3)]
    lines = table(kernels, name="cause", key="cause")
    assert lines[0] == "| cause | launches | GB | ms |"
    assert lines[-1] == "| all | 3 | 4.3 | 2.0 |"


def test_the_files_of_the_causes_exist() -> None:
    assert [file for file in CAUSES if not (ROOT / file).exists()] == []
