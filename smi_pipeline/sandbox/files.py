"""Write files of the sandbox."""

import tempfile
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write a file atomically: whoever waits for it never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
        part.write(content)
    Path(part.name).replace(path)
