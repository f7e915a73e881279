"""The stand-ins start whatever the secrets look like that were drawn for them."""

import tempfile
from pathlib import Path

from smi_pipeline.demo.environment import running_sandbox
from smi_pipeline.demo.orders import fresh


def test_a_secret_may_begin_with_a_dash() -> None:
    with tempfile.TemporaryDirectory(prefix="smi-dash-", ignore_cleanup_errors=True) as folder:
        memory = fresh(Path(folder) / "home")
        memory.secrets = {name: f"-{secret}" for name, secret in memory.secrets.items()}
        with running_sandbox(memory):
            assert (memory.sandbox_folder / "ports.json").exists()
