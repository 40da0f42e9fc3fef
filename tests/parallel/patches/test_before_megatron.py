"""The packages that importing Megatron does and does not bring along."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_importing_megatron_does_not_import_torchs_compiler() -> None:
    code = (
        "import sys, torch; compiler = torch.compile; import parallel.build;"
        "print(sorted({'torch._dynamo', 'torch._inductor'} & set(sys.modules)), torch.compile is compiler)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"
