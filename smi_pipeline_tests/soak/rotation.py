"""Replace every key of a running shop under load, in the order of docs/keys.md: both are good for a while."""

import secrets
import threading
from typing import TYPE_CHECKING

import requests

if TYPE_CHECKING:
    from smi_pipeline_tests.soak.runner import Soak

SHOWN_TO_US = {
    "SMI_API_KEY": "api_key",
    "SMI_ADMIN_API_KEY": "admin_api_key",
    "STRIPE_WEBHOOK_SECRET": "webhook_secret",
}
"""Settings with keys that others show to us, and the names of these in the secrets of a demo."""
SHOWN_BY_US = {
    "STRIPE_API_KEY": "stripe_key",
    "UPSAMPLER_API_KEY": "upsampler_key",
    "SMTP_PASSWORD": "smtp_password",
}
LINKS = "SMI_SECRET_KEY"


class Rotation:
    """One rotation of all keys; `begin` and `end` are events of a soak."""

    def __init__(self) -> None:
        self._old: dict[str, str] = {}
        self._new: dict[str, str] = {}
        self._begun = threading.Event()

    def begin(self, soak: "Soak") -> None:
        """Let the old keys and new ones be good everywhere, and use the new ones."""
        self._old = dict(soak.demo.secrets)
        self._new = {name: secrets.token_hex(32) for name in self._old}
        self._outside(soak, both=True)
        soak.restart(0, self._settings(both=True))
        soak.demo.secrets.update(self._new)
        self._expect(soak, old=True)
        self._begun.set()

    def end(self, soak: "Soak") -> None:
        """Forget the old keys, except that of the links: they live until they expire."""
        self._begun.wait()  # of few orders, enough may be paid before
        self._outside(soak, both=False)
        soak.restart(0, self._settings(both=False))
        self._expect(soak, old=False)

    def _keys(self, name: str, *, both: bool) -> str:
        return f"{self._new[name]},{self._old[name]}" if both else self._new[name]

    def _outside(self, soak: "Soak", *, both: bool) -> None:
        soak.note("All services take " + ("the old keys and new ones" if both else "the new keys only"))
        api_key, secret = self._keys("stripe_key", both=both), self._keys("webhook_secret", both=both)
        soak.configure("stripe", api_key=api_key, webhook_secret=secret)
        soak.configure("upsampler", api_key=self._keys("upsampler_key", both=both))
        old = self._old["smtp_password"] if both else ""
        soak.configure("mail", smtp_password=self._new["smtp_password"], smtp_old_password=old)

    def _settings(self, *, both: bool) -> dict[str, str]:
        return {
            **{setting: self._keys(name, both=both) for setting, name in SHOWN_TO_US.items()},
            **{setting: self._new[name] for setting, name in SHOWN_BY_US.items()},
            LINKS: self._keys("secret_key", both=True),
        }

    def _expect(self, soak: "Soak", *, old: bool) -> None:
        """Note a violation unless the gateway takes the new keys, and the old ones as `old` says."""
        for name, path in (("api_key", "/smi/v1/jobs"), ("admin_api_key", f"/smi/v1/admin/jobs/{'0' * 32}/check")):
            for keys, good in ((self._new, True), (self._old, old)):
                reply = requests.post(
                    soak.demo.url("gateway") + path, headers={"Authorization": f"Bearer {keys[name]}"}, timeout=30
                )
                if (reply.status_code != 401) != good:
                    soak.violations.append(f"a key ({name}) is answered with {reply.status_code}")
