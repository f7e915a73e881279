"""What is ordered in a soak: small photographs, so that the stand-ins' own work does not dominate."""

import random
from pathlib import Path

from smi_pipeline.demo.orders import Memory, Order, fresh

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "retina", "motorcycle", "tissue", "camera", "coins", "brick")
LONG_SIDE = 96  # pixels


class SoakMemory(Memory):
    """The demo's memory, which forgets: a soak is never continued."""

    def save(self, *, closed: bool = False) -> None:
        """Nothing is written."""


def soak_memory(home: Path, jobs: int, seed: int) -> SoakMemory:
    """Ports, secrets, and as many orders; those of one seed differ in nothing but the ports."""
    new = fresh(home)
    memory = SoakMemory(home, new.ports, new.secrets)
    chance = random.Random(seed)
    for number in range(1, jobs + 1):
        photo, extension = chance.choice(PHOTOS), chance.choice(("jpg", "png", "webp"))
        memory.orders.append(
            Order(
                number=number,
                case_name=chance.choice(("good-4x", "good-8x")),
                email=f"customer-{number:05d}@example.com",
                source_url=f"{memory.url('origin')}/photos/{photo}-{LONG_SIDE}.{extension}?order={number:05d}",
            )
        )
    return memory
