"""The work of a rank's device in one micro-batch and at the end of a step: FLOPs, bytes of its memory, kernels.

A matrix product [N, k] x [k, n] reads both factors and writes the result; its backward pass is two such products. What
lies between the products moves bytes only, each tensor once for each kernel that reads or writes it, with the fusions
that torch.compile makes of a block.

Attention reads and writes little, and computes its scores again in the backward pass: 3.5 times the FLOPs of the
forward pass in all (arXiv 2307.08691, section 4.1), where a count of FLOPs without recomputation has 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.memory import BYTES_FLOAT32
from model.size import attention_flops_per_layer, local_parameters, matrix_parameters_per_layer
from parallel.planning.shape import StepShape

_KERNELS_OF_A_BLOCK = 56  # compiled: 29 fused, 21 products, 6 of attention (benchmarks/counted.md)
_KERNELS_OF_AN_EAGER_BLOCK = 120  # 3,069 launches for 12 layers and two micro-batches, less those outside of blocks
# Times the bytes of fused kernels: of the three sizes that were measured both compiled and eager on an H200
# (benchmarks/gpu.md), the difference gives 3.2, 3.8 and 3.6.
_EAGER_TRAFFIC = 3.5
_FORWARD_SHARE = 0.4  # of the bytes that element-wise kernels move in both directions
_BYTES_A_LOGIT = 6  # of the fused cross-entropy, which reads each logit twice and writes its gradient
_BYTES_A_LOGIT_UNFUSED = 44  # of torch's operations


@dataclass(frozen=True)
class Work:
    """The work of a device. Sums and multiples are exact."""

    product_flops: float = 0.0
    attention_flops: float = 0.0
    moved_bytes: float = 0.0
    kernels: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.product_flops + other.product_flops,
            self.attention_flops + other.attention_flops,
            self.moved_bytes + other.moved_bytes,
            self.kernels + other.kernels,
        )

    def __mul__(self, times: float) -> Work:
        return Work(
            self.product_flops * times, self.attention_flops * times, self.moved_bytes * times, self.kernels * times
        )


def block_work(step: StepShape) -> Work:
    """Returns the work of one block on one micro-batch, forward and backward, with what is computed again."""
    model, layout, tokens = step.model, step.layout, step.tokens
    hidden, kv, ffn = model.hidden_size, model.kv_heads * model.head_size, model.ffn_size
    inputs, tensor = model.mlp.matrices() - 1, layout.tensor
    matrices = matrix_parameters_per_layer(model)
    passes = 4 if layout.recompute == "full" else 3  # of products of the size of the forward pass
    # Inputs and outputs of the products: q, k and v together; out; gate and up together; down.
    features = 3 * hidden + (2 * hidden + 2 * kv + (inputs + 1) * ffn) / tensor
    product_bytes = passes * layout.element * (features * tokens + matrices / tensor)
    # Two norms and two sums with the residual stream; rotation; the activation of the MLP.
    elementwise = 22 * hidden * layout.residual_share + (4 * (hidden + kv) + (3 * inputs + 2) * ffn) / tensor
    elementwise *= 1 if step.compiled else _EAGER_TRAFFIC
    again = {"none": 0.0, "selective": _FORWARD_SHARE / 2, "full": _FORWARD_SHARE}[layout.recompute]
    return Work(
        product_flops=passes * 2 * matrices / tensor * tokens,
        attention_flops=(passes + 0.5) * attention_flops_per_layer(model, step.seq_length) / tensor * tokens,
        moved_bytes=product_bytes + (1 + again) * elementwise * layout.element * tokens,
        kernels=(_KERNELS_OF_A_BLOCK if step.compiled else _KERNELS_OF_AN_EAGER_BLOCK) * passes / 3,
    )


def head_work(step: StepShape) -> Work:
    """Returns the work of the head and the cross-entropy on one micro-batch; nothing of it is computed twice."""
    layout, tokens = step.layout, step.tokens
    hidden, vocabulary = step.model.hidden_size, step.model.vocabulary / layout.tensor
    chunk = step.model.objective.tokens_at_once(tokens, device_type=layout.device_type, vocabulary=round(vocabulary))
    chunks = -(-tokens // chunk)
    logit = _BYTES_A_LOGIT if layout.fused_loss else _BYTES_A_LOGIT_UNFUSED
    weights = 2 * layout.element + 2 * BYTES_FLOAT32  # read for two products, and its gradient's sum read and written
    return Work(
        product_flops=6 * hidden * vocabulary * tokens,
        moved_bytes=(logit + 3 * layout.element) * vocabulary * tokens
        + chunks * weights * vocabulary * hidden
        + 4 * layout.element * hidden * tokens,
        kernels=12 * chunks,
    )


def stage_parameters(step: StepShape, *, num_layers: int, first: bool, last: bool) -> float:
    """Returns the parameters that a tensor rank of a stage holds, before ZeRO shares them."""
    return local_parameters(
        step.model,
        num_layers=num_layers,
        seq_length=step.seq_length,
        first=first,
        last=last,
        tp_size=step.layout.tensor,
    )


def accumulation_work(step: StepShape, parameters: float) -> Work:
    """Returns the work of adding one micro-batch's gradients to the sums in float32."""
    return Work(moved_bytes=parameters * (step.layout.element + 2 * BYTES_FLOAT32))


def optimizer_work(step: StepShape, parameters: float) -> Work:
    """Returns the work of the gradient's norm and of AdamW on the parameters that a rank owns.

    Master, gradient and two moments are read, and all but the gradient written; in bfloat16 the weight is written too.
    """
    owned = parameters / (step.layout.data if step.layout.zero else 1)
    copy = step.layout.element if step.layout.bfloat16 else 0
    return Work(moved_bytes=owned * (8 * BYTES_FLOAT32 + copy))
