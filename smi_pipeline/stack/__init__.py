"""`smi up`: starts the processes of the topology, keeps them running, stops them all."""

from smi_pipeline.stack.stack import Stack, run_up

__all__ = ["Stack", "run_up"]
