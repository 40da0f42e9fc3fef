"""The choice of the engine by `parallel.zero`."""

from __future__ import annotations

from parallel.engines.deepspeed_engine import DeepSpeedEngine
from parallel.engines.engine import Engine, EngineInputs
from parallel.engines.sharded_optimizer_engine import ShardedOptimizerEngine


def build_engine(inputs: EngineInputs) -> Engine:
    """Builds the engine of a layout: DeepSpeed's for ZeRO 2 and 3, lehr's own for ZeRO 0 and 1."""
    return DeepSpeedEngine(inputs) if inputs.zero >= 2 else ShardedOptimizerEngine(inputs)
