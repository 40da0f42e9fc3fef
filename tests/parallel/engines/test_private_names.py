"""Names of DeepSpeed and torch that are not public and that the engines use: they are there, in the installed versions.

If one is missing, the message says which file of lehr uses it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parallel_runs import Trial, start
from processes import run_ranks

DEEPSPEED = {  # of engine.optimizer, by ZeRO stage: name -> the file that uses it
    2: {
        "_global_grad_norm": "gradient_clipping.py",
        "_lazy_init_hp_params_optimizer_state": "deepspeed_engine.py",
        "update_lp_params": "deepspeed_engine.py",
        "averaged_gradients": "deepspeed_engine.py",
    },
    3: {
        "_global_grad_norm": "gradient_clipping.py",
        "_get_fp32_opt_state_partition": "zero_partitions.py",
        "_reassign_or_swap_out_partitioned_parameters": "deepspeed_engine.py",
        "fp32_partitioned_groups_flat": "deepspeed_engine.py",
        "persistent_parameters": "deepspeed_engine.py",
        "grad_partitions_flat_buffer": "deepspeed_engine.py",
        "ipg_buckets": "deepspeed_engine.py",
        "sub_group_to_group_id": "deepspeed_engine.py",
    },
}


def missing_names(zero: int) -> list[str]:
    _, parts = start(Trial(model={"num_layers": 1}, parallel={"zero": zero}))
    engine: Any = parts.engine
    inner = engine._engine.optimizer
    missing = [
        f"{name}, used in parallel/engines/{file}" for name, file in DEEPSPEED[zero].items() if not hasattr(inner, name)
    ]
    of_parameter = {2: ("_hp_mapping",), 3: ("ds_tensor", "_z3_optimizer", "convert_to_zero_parameters")}[zero]
    missing += [
        f"{name} of a parameter, used in parallel/engines"
        for name in of_parameter
        if not all(hasattr(shard.parameter, name) for shard in engine._shards)
    ]
    return missing


@pytest.mark.parametrize("zero", [2, 3])
def test_deepspeed_has_the_names_that_the_engine_uses(zero: int) -> None:
    ((*missing,),) = run_ranks(1, missing_names, zero)
    assert not missing, f"DeepSpeed has changed: its ZeRO {zero} optimizer has no {missing}"


def missing_operator_table() -> str:
    from deepspeed.ops import __compatible_ops__

    return "" if "deepspeed_shm_comm" in __compatible_ops__ else "no deepspeed_shm_comm in __compatible_ops__"


def test_deepspeed_still_looks_up_its_shared_memory_operator() -> None:
    assert run_ranks(1, missing_operator_table) == [""], "DeepSpeed has changed: see deepspeed_setup.py"


def test_torch_has_its_fused_kernel() -> None:
    names = [argument.name for argument in torch.ops.aten._fused_adamw_.default._schema.arguments]
    used = {"self", "grads", "exp_avgs", "exp_avg_sqs", "state_steps", "lr", "beta1", "beta2", "weight_decay", "eps"}
    assert used <= set(names), "torch._fused_adamw_ has changed: see fused_adamw in optim/adamw.py"
