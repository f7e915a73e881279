"""What a check of `smi doctor` has found."""

from dataclasses import dataclass

from smi_pipeline.commands.errors import scrubbed


@dataclass(frozen=True)
class Finding:
    """The result of a check. `state` is ok, note (worth knowing) or wrong; `to_do` says what to do about it."""

    name: str
    state: str
    message: str
    to_do: str = ""

    @property
    def line(self) -> str:
        """Return the message and what to do in one line."""
        return f"{self.message}; {self.to_do}" if self.to_do else self.message


def ok(name: str, message: str) -> Finding:
    """Return a finding that nothing is wrong."""
    return Finding(name, "ok", scrubbed(message))


def wrong(name: str, message: str, to_do: str) -> Finding:
    """Return a finding that something is wrong."""
    return Finding(name, "wrong", scrubbed(message), to_do)


def note(name: str, message: str, to_do: str) -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(name, "note", scrubbed(message), to_do)
