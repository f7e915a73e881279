"""What a storage holds."""

from smi_pipeline.core.ports import StoragePort


def stored_keys(storage: StoragePort, prefix: str = "") -> list[str]:
    """The keys that begin with `prefix`, as the storage lists them."""
    return [file.key for file in storage.listing(prefix)]
