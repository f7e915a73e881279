"""A disk without a byte left, for real: a file system of a few megabytes, which only root may make."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from smi_pipeline.core.errors import TransientError
from smi_pipeline.core.models import Status
from smi_pipeline.state.embedded import EmbeddedPostgres
from smi_pipeline.state.schema import ensure_database, migrate
from smi_pipeline_tests.gateway.conftest import MakeShop
from smi_pipeline_tests.gateway.shop import Shop, signed, stripe_event
from smi_pipeline_tests.soak.outages import small_disk
from smi_pipeline_tests.stored_keys import stored_keys

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")


class SmallDisk:
    """A folder on a file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(b"\0" * 1_000_000)

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    with tempfile.TemporaryDirectory(prefix="smi-disk-") as folder, small_disk(Path(folder) / "disk", 200):
        yield SmallDisk(Path(folder) / "disk")


@pytest.fixture
def shop(make_shop: MakeShop, disk: SmallDisk) -> Shop:
    return make_shop(smi_storage_url=str(disk.folder / "storage"))


def test_nothing_is_stored_by_half_and_what_was_stored_stays(shop: Shop, disk: SmallDisk, tmp_path: Path) -> None:
    new = tmp_path / "new.png"
    new.write_bytes(os.urandom(100_000))
    shop.ctx.storage.put_bytes("results/aa/kept.png", b"kept")
    disk.fill()
    assert "below the reserve" in str(shop.ctx.storage.shortage())
    with pytest.raises(TransientError, match="Not enough disk space"):
        shop.ctx.storage.put("results/aa/kept.png", new)
    with pytest.raises(TransientError, match="Not enough disk space"):
        shop.ctx.storage.put("results/bb/new.png", new)
    assert stored_keys(shop.ctx.storage) == ["results/aa/kept.png"]
    with shop.ctx.storage.open("results/aa/kept.png") as file:
        assert file.read() == b"kept"
    disk.free()
    assert shop.ctx.storage.shortage() is None
    shop.ctx.storage.put("results/bb/new.png", new)
    assert shop.ctx.storage.size("results/bb/new.png") == 100_000


def test_the_doors_stay_open_while_the_disk_of_the_files_is_full(shop: Shop, disk: SmallDisk) -> None:
    job_id, waiting = shop.delivered(b"what was paid for"), shop.ordered()
    disk.fill()
    answer = shop.client.get(f"/smi/v1/download/{shop.token(job_id)}")
    assert (answer.status_code, answer.content) == (200, b"what was paid for")
    assert shop.client.get("/health").status_code == 200
    assert shop.status(waiting)["status"] == "queued"
    event = stripe_event("charge.succeeded", {"id": "ch_1", "object": "charge"})
    assert shop.client.post("/smi-webhook/stripe", content=event, headers=signed(event)).status_code == 200
    assert shop.job(job_id).status is Status.COMPLETED


def test_health_says_when_the_database_has_no_room_and_when_it_has_again(make_shop: MakeShop, disk: SmallDisk) -> None:
    server = EmbeddedPostgres(disk.folder / "postgres")
    server.start()
    try:
        ensure_database(server.url())
        migrate(server.url())
        shop = make_shop(smi_database_url=server.url())
        assert shop.client.get("/health").status_code == 200
        disk.fill()
        answer = shop.client.get("/health")
        assert (answer.status_code, "disk is full" in answer.text) == (503, True)
        disk.free()
        assert shop.client.get("/health").status_code == 200
        shop.state.database.dispose()  # type: ignore[attr-defined]
    finally:
        server.stop()
