"""What importing Megatron brings along."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_torchs_compiler_is_imported_only_where_something_is_compiled() -> None:
    code = (
        "import sys, torch; compiler = torch.compile; import parallel.build;"
        "print(sorted({'torch._dynamo', 'torch._inductor'} & set(sys.modules)), torch.compile is compiler)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"
