"""The checks under test, and a writer of files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from smi_pipeline.adapters.images import VipsImages
from smi_pipeline.core.models import Verdict
from smi_pipeline_tests.unit.images.pictures import encoded


@pytest.fixture
def images() -> VipsImages:
    return VipsImages(max_output_megapixels=256, max_source_bytes=20_000_000)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes bytes, or an image in the named format, and says where."""

    def writer(content: bytes | Image.Image, format: str = "PNG", name: str = "file", **options: object) -> Path:
        path = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        path.write_bytes(content if isinstance(content, bytes) else encoded(content, format, **options))
        return path

    return writer


@pytest.fixture
def check(images: VipsImages, write: Callable[..., Path]) -> Callable[..., Verdict]:
    """Checks a result (bytes, or an image to be written as JPEG) against a source."""

    def checker(
        source: bytes | Image.Image, result: bytes | Image.Image, scale: int = 4, format: str = "JPEG"
    ) -> Verdict:
        return images.check_result(write(source, name="source"), write(result, format, name="result"), scale)

    return checker
