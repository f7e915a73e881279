"""`smi up`: start all processes of the product, restart those that exit, stop them all."""

from smi_pipeline.stack.stack import Stack, run_up

__all__ = ["Stack", "run_up"]
