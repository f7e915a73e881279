"""What all fakes of the outside share.

Each asserts at every call that no transaction is open, keeps a ledger of what it was asked to do, and takes the next
entry of `faults` (an exception to raise) before it does it. `after_effect` faults are raised when the effect has
happened: the answer was lost.
"""

from collections import deque
from collections.abc import Callable

from smi_pipeline.state.database import transaction_is_open


class Outside:
    """What all fakes share."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.faults: deque[Exception | None] = deque()
        self.after_effect: deque[Exception | None] = deque()
        self.watch: Callable[[str], None] = lambda moment: None  # may raise, or keep the caller waiting

    def untouched(self, what: str) -> None:
        """No adapter is called while a transaction is open (design, section 4)."""
        assert not transaction_is_open(), f"{what} was called while a transaction is open"

    def called(self, what: str) -> None:
        """Notes a call; raises the fault that is due."""
        self.untouched(what)
        self.watch(what)
        self.calls.append(what)
        fault = self.faults.popleft() if self.faults else None
        if fault:
            raise fault

    def done(self) -> None:
        """The effect has happened; the answer may get lost."""
        self.watch(f"{self.calls[-1]} answered")
        fault = self.after_effect.popleft() if self.after_effect else None
        if fault:
            raise fault
