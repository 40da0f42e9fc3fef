"""The time of a ladder on a device, from its FLOPs."""

from __future__ import annotations

import torch

from launcher.processes.environment import cache_folder
from launcher.run.config import RunConfig
from launcher.run.estimate import device_type
from settings import UserError
from settings.errors import nearest
from train.metrics.gpu_peaks import GPU_TFLOPS
from train.metrics.hardware import Peak, find_peak, gpu_peak


def device_peak(config: RunConfig, gpu: str | None) -> Peak:
    """Returns the peak of the GPU that is named, or of this machine. Raises UserError for a GPU that is not known."""
    if gpu is None:
        return find_peak(torch.device(device_type(config)), config.train.precision, cache_folder())
    named = [name for name in GPU_TFLOPS if gpu.lower() in name.lower()]
    if gpu in GPU_TFLOPS or len(named) == 1:
        return gpu_peak(gpu if gpu in GPU_TFLOPS else named[0], config.train.precision)
    hint = f": {', '.join(named)}" if named else nearest(gpu, GPU_TFLOPS)
    raise UserError(f'--gpu "{gpu}" is {"the name of several GPUs" if named else "not known"}{hint}')
