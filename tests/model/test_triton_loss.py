"""The cross-entropy's Triton kernels: compiled for an H100 without one, run by Triton's interpreter, and chosen."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.loss_kernels import (
    choose_loss_kernel,
    loss_kernel_by,
    loss_kernel_error,
    torch_loss,
    why_not_loss_kernel,
)

CPU = torch.device("cpu")
# Loss and nll; gradients. The interpreter cuts bfloat16 off where a GPU rounds it.
BOUNDS = {"float64": (1e-14, 1e-14), "float32": (1e-6, 1e-6), "bfloat16": (2e-3, 1e-2)}
POINTERS = ("logits", "targets", "out", "highest", "sums", "weights")


def compiled_for_h100(kernel_name: str, logits: str, statistics: str, **constants: object) -> str:
    """Compiles a kernel for sm_90, down to machine code, and returns its PTX."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from model.triton_kernels import loss

    kernel = getattr(loss, kernel_name)
    types = {**dict.fromkeys(POINTERS, f"*{statistics}"), "logits": f"*{logits}", "targets": "*i64"}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name in POINTERS or name == "columns"
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": loss._WARPS})
    assert len(binary.asm["cubin"]) > 1000
    ptx: str = binary.asm["ptx"]
    return ptx


@pytest.mark.parametrize("logits", ["bf16", "fp32"])
def test_the_kernels_compile_for_sm_90_and_move_16_bytes_at_once(
    logits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    first = compiled_for_h100("statistics_kernel", logits, "fp32", LANES=512, SPAN=8)
    second = compiled_for_h100("loss_kernel", logits, "fp32", Z_LOSS=1e-4, GRADIENT=True, BLOCK=4096)
    a_thread = 4096 // 256  # logits of a block
    vectors = a_thread * (2 if logits == "bf16" else 4) // 16
    assert len(re.findall(r"ld\.global\.v4\.b32", first)) == vectors
    assert len(re.findall(r"[ls][dt]\.global\.v4\.b32", second)) == 2 * vectors
    assert second.count("ex2.approx") == a_thread
    # An exponential for each logit and one for each span of 8 (of 4 in float32, half a span), and the last sum's.
    assert first.count("ex2.approx") <= a_thread * 1.5


@pytest.mark.slow
def test_the_interpreted_kernels_give_the_loss_and_the_gradients_of_full_logits() -> None:
    pytest.importorskip("triton")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, root / "tests/model/interpreted_loss.py"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {dtype for dtype, *_ in found} == set(BOUNDS)
    for dtype, tp_size, sums, gradients in found:
        assert sums < BOUNDS[dtype][0], (dtype, tp_size)
        assert gradients < BOUNDS[dtype][1], (dtype, tp_size)


def test_a_cpu_takes_the_plain_form() -> None:
    assert choose_loss_kernel("auto", CPU, torch.float32) == "torch"
    assert why_not_loss_kernel("triton", CPU, torch.float32) == "it needs a CUDA device, and the model is on cpu"
    assert loss_kernel_by("torch") is torch_loss


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_the_kernel_of_triton_is_chosen_and_is_as_right_as_torch_is(dtype: torch.dtype) -> None:
    cuda = torch.device("cuda")
    assert why_not_loss_kernel("triton", cuda, dtype) is None
    assert choose_loss_kernel("auto", cuda, dtype) == "triton"
    plain = loss_kernel_error(torch_loss, cuda, dtype)
    assert loss_kernel_error(loss_kernel_by("triton"), cuda, dtype) < 2 * plain + 1e-6
