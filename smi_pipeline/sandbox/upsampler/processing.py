"""The work of Upsampler, in worker threads: fetch the source, enlarge it, corrupt it if a fault says so, store it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import requests

from smi_pipeline.sandbox import files
from smi_pipeline.sandbox.ledger import Ledger, Record
from smi_pipeline.sandbox.upsampler import corruption
from smi_pipeline.sandbox.upsampler.alterations import ALTERATIONS
from smi_pipeline.sandbox.upsampler.upscaling import (
    EXTENSIONS,
    UnusableImage,
    Upscaled,
    credits_for,
    pixels_sha256,
    upscale,
)

FETCH_TIMEOUT_SECONDS = 20
MAX_SOURCE_BYTES = 60_000_000


class Processor:
    """Makes results and stores them in a folder."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._ledger = ledger

    def make(self, record: Record) -> dict[str, Any]:
        """Make the result of a submission; return its file, format, credits and checksum. Raises UnusableImage."""
        source = _fetch(record["image_url"])
        result, stored = self._upscaled(source, record["scale"])
        for kind, params in record["behaviour"].items():
            if kind in ALTERATIONS:
                result = ALTERATIONS[kind](result, params)
                digest = hashlib.sha256(result.body).hexdigest()[:32]
                stored = f"{digest}-{kind}.{EXTENSIONS[result.format]}"
                files.write(self.folder / stored, result.body)
        for kind, params in record["behaviour"].items():
            if kind in corruption.CORRUPTIONS:
                stored = self._corrupted(result, stored, kind, params)
        return {
            "stored": stored,
            "format": result.format,
            "credits": credits_for(result.width, result.height),
            "sha256": pixels_sha256((self.folder / stored).read_bytes()),
        }

    def _corrupted(self, result: Upscaled, stored: str, kind: str, params: dict[str, Any]) -> str:
        """Return the file name of the corrupted result; it is made once, like the result itself."""
        how = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:8]
        name = f"{Path(stored).stem}-{kind}-{how}{Path(stored).suffix}"
        if not (self.folder / name).exists():
            files.write(self.folder / name, corruption.CORRUPTIONS[kind](result, params))
        return name

    def _upscaled(self, source: bytes, scale: int) -> tuple[Upscaled, str]:
        """Return the result and its file name. The same source is enlarged once: load tests send few photographs many
        times, and should measure the shop rather than this resizer."""
        name = f"{hashlib.sha256(source).hexdigest()[:32]}-{scale}"
        if cached := self._ledger.get("cache", name):
            path = self.folder / f"{name}.{EXTENSIONS[cached['format']]}"
            if path.exists():
                return Upscaled(body=path.read_bytes(), **cached), path.name
        result = upscale(source, scale)
        path = self.folder / f"{name}.{EXTENSIONS[result.format]}"
        files.write(path, result.body)
        self._ledger.put("cache", name, {"format": result.format, "width": result.width, "height": result.height})
        return result, path.name


def _fetch(url: str) -> bytes:
    if not url.isascii() or any(character <= " " for character in url):  # a library may escape it otherwise than others
        raise UnusableImage("Invalid image URL")
    try:
        with requests.Session() as session:
            session.trust_env = False
            reply = session.get(url, timeout=FETCH_TIMEOUT_SECONDS)
    except requests.RequestException as error:
        raise UnusableImage("Could not fetch the image: no answer") from error
    if reply.status_code != 200:
        raise UnusableImage(f"Could not fetch the image: HTTP {reply.status_code}")
    if not 0 < len(reply.content) <= MAX_SOURCE_BYTES:
        raise UnusableImage("Could not fetch the image: empty or too large")
    return reply.content
