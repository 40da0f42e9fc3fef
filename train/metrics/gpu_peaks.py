"""The peak FLOP/s of GPUs, by the exact names under which torch knows them.

TFLOP/s of dense matrix products, from the vendors' data sheets and white papers: bfloat16 with sums in float32, never
the figure with sparsity; float32 without TF32, which lehr does not turn on. The same chip has other peaks in other
cards, and some names are the beginnings of others, so a name counts only as a whole. A new GPU is one line here:
`python -c "import torch; print(torch.cuda.get_device_name())"` prints its name.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["float32", "bfloat16"]
Tflops = dict[Precision, float]

_A100: Tflops = {"bfloat16": 312.0, "float32": 19.5}  # NVIDIA A100 data sheet; the A800 differs in NVLink only
_H100_SXM: Tflops = {"bfloat16": 989.4, "float32": 66.9}  # NVIDIA H100 white paper, table 2; the H800 and H200 too


GPU_TFLOPS: dict[str, Tflops] = {
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA A800-SXM4-40GB": _A100,
    "NVIDIA A800-SXM4-80GB": _A100,
    "NVIDIA A800 80GB PCIe": _A100,
    "NVIDIA H100 80GB HBM3": _H100_SXM,  # the card of HGX and DGX (SXM5)
    "NVIDIA H100 PCIe": {"bfloat16": 756.0, "float32": 51.0},  # NVIDIA H100 PCIe data sheet
    "NVIDIA H100 NVL": {"bfloat16": 835.5, "float32": 60.0},  # NVIDIA H100 data sheet, of one of the two cards
    "NVIDIA H200": _H100_SXM,
    "NVIDIA H800": _H100_SXM,
    "NVIDIA H20": {"bfloat16": 148.0, "float32": 44.0},  # NVIDIA H20 data sheet
    "NVIDIA GH200 480GB": _H100_SXM,
    "NVIDIA GH200 120GB": _H100_SXM,
    "NVIDIA GH200 144G HBM3e": _H100_SXM,
    "NVIDIA B200": {"bfloat16": 2250.0, "float32": 75.0},  # NVIDIA HGX data sheet, an eighth of the board
    "NVIDIA GB200": {"bfloat16": 2500.0, "float32": 80.0},  # NVIDIA GB200 NVL72 data sheet, of one GPU
    "NVIDIA A40": {"bfloat16": 149.7, "float32": 37.4},  # this and the following: NVIDIA's data sheet of the card
    "NVIDIA A30": {"bfloat16": 165.0, "float32": 10.3},
    "NVIDIA A10": {"bfloat16": 125.0, "float32": 31.2},
    "NVIDIA A10G": {"bfloat16": 70.0, "float32": 35.0},
    "NVIDIA RTX A6000": {"bfloat16": 154.8, "float32": 38.7},
    "NVIDIA L40S": {"bfloat16": 362.05, "float32": 91.6},
    "NVIDIA L40": {"bfloat16": 181.05, "float32": 90.5},
    "NVIDIA L4": {"bfloat16": 121.0, "float32": 30.3},
    "NVIDIA RTX 6000 Ada Generation": {"bfloat16": 364.2, "float32": 91.1},
    "NVIDIA GeForce RTX 5090": {"bfloat16": 209.5, "float32": 104.8},  # NVIDIA RTX Blackwell white paper
    "NVIDIA GeForce RTX 4090": {"bfloat16": 165.2, "float32": 82.6},  # NVIDIA Ada white paper
    "NVIDIA GeForce RTX 3090": {"bfloat16": 71.0, "float32": 35.6},  # NVIDIA Ampere GA102 white paper
    "AMD Instinct MI300X": {"bfloat16": 1307.4, "float32": 163.4},  # AMD Instinct MI300X data sheet
    "AMD Instinct MI300X OAM": {"bfloat16": 1307.4, "float32": 163.4},
    # AMD Instinct MI250X data sheet. Torch sees each of the two dies of a card as a device.
    "AMD Instinct MI250X": {"bfloat16": 191.5, "float32": 47.9},
}
