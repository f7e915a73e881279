"""The sandbox starts with any random secrets."""

import tempfile
from pathlib import Path

from smi_pipeline.demo.environment import running_sandbox
from smi_pipeline.demo.orders import new_state
from smi_pipeline.privileges.accounts import own_home


def test_a_secret_may_begin_with_a_dash() -> None:
    with tempfile.TemporaryDirectory(prefix="smi-dash-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        own_home(home)
        demo = new_state(home)
        demo.secrets = {name: f"-{secret}" for name, secret in demo.secrets.items()}
        with running_sandbox(demo):
            assert (demo.sandbox_folder / "ports.json").exists()
