"""Images: identity, integrity and fidelity, on libvips. Importing this starts nothing."""

from smi_pipeline.adapters.images.checks import VipsImages

__all__ = ["VipsImages"]
