"""The sites under attack."""

from dataclasses import dataclass

CUSTOMERS, TEAM, ANALYSTS = "customers", "team", "analysts"
SITES = (CUSTOMERS, TEAM, ANALYSTS)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A site: its origin, the login it wants ("" for none), another site's login, and the cookie of one who has logged
    in."""

    site: str
    origin: str
    login: str = ""
    other_login: str = ""
    cookie: str = ""

    @property
    def authority(self) -> str:
        """Return host and port."""
        return self.origin.partition("://")[2]
