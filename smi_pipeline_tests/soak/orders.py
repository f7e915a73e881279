"""The orders of a soak: small photographs, so that the sandbox's own work does not dominate."""

import random
import secrets
from pathlib import Path

from smi_pipeline.demo.orders import DemoState, Order, new_state

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "retina", "motorcycle", "tissue", "camera", "coins", "brick")
LONG_SIDE = 96  # pixels


class SoakState(DemoState):
    """A demo state that is not saved: a soak is never continued."""

    def save(self, *, closed: bool = False) -> None:
        """Do nothing."""


def soak_state(home: Path, jobs: int, seed: int) -> SoakState:
    """Return ports, secrets, and `jobs` orders, which are the same for the same seed, except for the ports."""
    new = new_state(home)
    demo = SoakState(home, new.ports, {**new.secrets, "smtp_password": secrets.token_urlsafe(16)})
    chance = random.Random(seed)
    for number in range(1, jobs + 1):
        photo, extension = chance.choice(PHOTOS), chance.choice(("jpg", "png", "webp"))
        demo.orders.append(
            Order(
                number=number,
                case_name=chance.choice(("good-4x", "good-8x")),
                email=f"customer-{number:05d}@example.com",
                source_url=f"{demo.url('origin')}/photos/{photo}-{LONG_SIDE}.{extension}?order={number:05d}",
            )
        )
    return demo
