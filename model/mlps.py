"""MLPs: position-wise maps between a block's norm and its residual.

Shapes: t, T sequence (a rank's part, full), B batch, D hidden_size, f a rank's shard of ffn_size.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from model.layers import Layers
from model.recompute import RecomputeContext, saving
from settings import Registry, Settings


class MLPConfig(Settings):
    """The contract of an MLP."""

    name: str = Field(description="Name of the MLP.")

    def build(
        self,
        hidden_size: int,
        ffn_size: int,
        *,
        bias: bool,
        layers: Layers,
        save_or_recompute: RecomputeContext = saving,
    ) -> nn.Module:
        """Builds a module [t, B, hidden_size] -> [t, B, hidden_size], with all parameters declared.

        Matrices are made by `layers`; the last one is a row, called `down`. `save_or_recompute` wraps an operation
        whose input is cheap to compute again.
        """
        raise AssertionError(f"{type(self).__name__} has no build")

    def matrices(self) -> int:
        """Returns how many matrices of hidden_size x ffn_size it has."""
        raise AssertionError(f"{type(self).__name__} has no matrices")


MLPS = Registry("MLP", room="model", base=MLPConfig)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (arXiv 2002.05202)."""

    def __init__(
        self, hidden_size: int, ffn_size: int, *, bias: bool, layers: Layers, save_or_recompute: RecomputeContext
    ) -> None:
        super().__init__()
        self.gate = layers.column(hidden_size, ffn_size, bias=bias)
        self.up = layers.column(hidden_size, ffn_size, bias=bias)
        self.down = layers.row(ffn_size, hidden_size, bias=bias)
        self._layers = layers
        self._save_or_recompute = save_or_recompute

    def forward(self, x_tBD: Tensor) -> Tensor:
        gate_TBf, up_TBf = self._layers.project(x_tBD, (self.gate, self.up))
        open_TBf = nn.functional.silu(gate_TBf)
        with self._save_or_recompute(open_TBf, lambda: nn.functional.silu(gate_TBf)):
            hidden_TBf = open_TBf * up_TBf
        with self._save_or_recompute(hidden_TBf, lambda: nn.functional.silu(gate_TBf) * up_TBf):
            out_tBD: Tensor = self.down(hidden_TBf)
        return out_tBD


class GELU(nn.Module):
    """down(gelu(up(x))), with the tanh form of GELU (arXiv 1606.08415), as GPT-2."""

    def __init__(
        self, hidden_size: int, ffn_size: int, *, bias: bool, layers: Layers, save_or_recompute: RecomputeContext
    ) -> None:
        super().__init__()
        self.up = layers.column(hidden_size, ffn_size, bias=bias)
        self.down = layers.row(ffn_size, hidden_size, bias=bias)
        self._layers = layers
        self._save_or_recompute = save_or_recompute

    def forward(self, x_tBD: Tensor) -> Tensor:
        (up_TBf,) = self._layers.project(x_tBD, (self.up,))
        hidden_TBf = nn.functional.gelu(up_TBf, approximate="tanh")
        with self._save_or_recompute(hidden_TBf, lambda: nn.functional.gelu(up_TBf, approximate="tanh")):
            out_tBD: Tensor = self.down(hidden_TBf)
        return out_tBD


@MLPS.register
class SwiGLUConfig(MLPConfig):
    """down(silu(gate(x)) · up(x)), three matrices (arXiv 2002.05202), as in Llama."""

    name: Literal["swiglu"] = "swiglu"

    def build(
        self,
        hidden_size: int,
        ffn_size: int,
        *,
        bias: bool,
        layers: Layers,
        save_or_recompute: RecomputeContext = saving,
    ) -> nn.Module:
        return SwiGLU(hidden_size, ffn_size, bias=bias, layers=layers, save_or_recompute=save_or_recompute)

    def matrices(self) -> int:
        return 3


@MLPS.register
class GELUConfig(MLPConfig):
    """down(gelu(up(x))), two matrices, as in GPT-2."""

    name: Literal["gelu"] = "gelu"

    def build(
        self,
        hidden_size: int,
        ffn_size: int,
        *,
        bias: bool,
        layers: Layers,
        save_or_recompute: RecomputeContext = saving,
    ) -> nn.Module:
        return GELU(hidden_size, ffn_size, bias=bias, layers=layers, save_or_recompute=save_or_recompute)

    def matrices(self) -> int:
        return 2
