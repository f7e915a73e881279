"""Make all results of a source, and let the product judge them."""

import argparse
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from smi_pipeline.adapters.images import VipsImages
from smi_pipeline_tests.bench_images.bad import BAD, REPORTED_ONLY, Unseen
from smi_pipeline_tests.bench_images.honest import HONEST, Files
from smi_pipeline_tests.bench_images.models import SCALE, networks, upscaled
from smi_pipeline_tests.bench_images.scenes import Source, sources

SCALES = (4, 4, 8)


@dataclass(frozen=True)
class Outcome:
    """What the checks said to one result."""

    kind: str
    bad: bool
    network: bool
    kept_back: bool
    name: str
    refused: bool
    words: tuple[str, ...]
    seconds: float
    unseen: str = ""
    """Why it is not counted: there is no such damage that could be seen."""

    @property
    def silent(self) -> bool:
        """Return whether it was delivered without a word."""
        return not self.words and not self.unseen

    @property
    def counts(self) -> bool:
        """Return whether its kind is more than reported and its damage can be seen."""
        return self.kind not in REPORTED_ONLY and not self.unseen


@dataclass(frozen=True)
class Work:
    """One source, with everything that is made of it."""

    source: Source
    scale: int
    kept_back: bool
    seed: int
    folder: Path
    network: bool
    only: str


def _results(work: Work) -> Iterator[tuple[str, bool, bool, int, Files | str]]:
    """Yield kind, whether it is bad, whether a network made it, scale and files, or why there are none."""
    image = work.source.image
    for bad, kinds in ((False, HONEST), (True, BAD)):
        for kind, make in kinds.items():
            rng = np.random.default_rng([work.seed, *work.source.name.encode(), *kind.encode()])
            if work.only not in kind:
                continue
            try:
                yield kind, bad, False, work.scale, make(image, work.scale, rng)
            except Unseen as why:
                yield kind, bad, False, work.scale, str(why)
    if work.network:
        for kind, files in upscaled(work.source, work.folder, networks()):
            if work.only in kind:
                yield kind, False, True, SCALE, files


def judge(work: Work) -> list[Outcome]:
    """Make all results of a source and let the product check them."""
    with tempfile.TemporaryDirectory() as folder:
        return [_judged(work, Path(folder), *result) for result in _results(work)]


def _judged(work: Work, folder: Path, kind: str, bad: bool, network: bool, scale: int, files: Files | str) -> Outcome:
    if isinstance(files, str):
        return Outcome(kind, bad, network, work.kept_back, work.source.name, False, (), 0.0, files)
    original, made = folder / "source", folder / "result"
    original.write_bytes(files[0])
    made.write_bytes(files[1])
    start = time.perf_counter()
    verdict = VipsImages(256, 50_000_000).check_result(original, made, scale)
    seconds = time.perf_counter() - start
    words = verdict.warnings if verdict.ok else (verdict.message, *verdict.warnings)
    return Outcome(kind, bad, network, work.kept_back, work.source.name, not verdict.ok, words, seconds)


def run(works: list[Work], processes: int) -> list[Outcome]:
    """Judge all sources."""
    if processes == 1:
        return [outcome for work in works for outcome in judge(work)]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        return [outcome for outcomes in pool.map(judge, works) for outcome in outcomes]


def plan(options: argparse.Namespace) -> list[Work]:
    """Return what is to be made. Photographs and scenes are kept back whole: a third of them, drawn by `split`."""
    every = list(sources(options.photographs, options.seed))
    scenes = sorted({source.scene for source in every})
    np.random.default_rng(options.split).shuffle(scenes)
    works = []
    for number, source in enumerate(every):
        kept_back = scenes.index(source.scene) % 3 == 2
        if options.sample and number % 3:
            continue
        if not (kept_back and options.tuning) and options.scene in source.name:
            network = options.networks and source.name.endswith("-0")
            works.append(
                Work(source, SCALES[number % 3], kept_back, options.seed, options.folder, network, options.only)
            )
    return works[:: options.sample or 1]
