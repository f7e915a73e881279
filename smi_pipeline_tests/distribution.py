"""Which test files go to which process of pytest-xdist: the running products first, but few at a time.

A test of a running product waits more than it computes, and a product takes more than a gigabyte. Left to xdist, which
begins with the files that have the most tests, the products would all come last, when nobody computes meanwhile.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

ONE_PRODUCT = "end_to_end/one_product"
"""A folder whose files share one running product, hence a process."""
PRODUCTS = (
    (ONE_PRODUCT, "chaos/test_chaos.py", "soak/test_soak.py"),
    ("end_to_end/test_wheel.py", "end_to_end/test_starting_and_stopping.py"),
)
"""What the first and the second process do before they share in the rest: no more than two products run at once."""
SHARED = "faults/test_faults.py"
"""Its tests are long and need nothing of each other: any process takes the next one, and they are the last."""
LONG = "integration/services/test_state_machine.py"
"""One test that takes as long as a file of many: it begins the rest, which ends with the files of the fewest tests."""


class Distribution(LoadFileScheduling):  # type: ignore[misc, unused-ignore]
    """Units of work are files, as with `--dist loadfile`, the folder `ONE_PRODUCT`, and the tests of `SHARED`."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid).removeprefix("smi_pipeline_tests/")
        if file == SHARED:
            return nodeid
        return ONE_PRODUCT if file.startswith(f"{ONE_PRODUCT}/") else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(self._next_unit(self.nodes.index(node)), last=False)
        super()._assign_work_unit(node)

    def _next_unit(self, process: int) -> str:
        products = [unit for line in PRODUCTS for unit in line if unit in self.workqueue]
        own = [unit for unit in products if unit in dict(enumerate(PRODUCTS)).get(process, ())]
        rest = [unit for unit in self.workqueue if unit not in products]  # in xdist's order, the most tests first
        rest.sort(key=lambda unit: unit != LONG)
        if process == 0:
            rest.reverse()
        return (own + rest + products[::-1])[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Distribution | None:
    """Use `Distribution` unless the command line asks for another one."""
    return Distribution(config, log) if config.getvalue("dist") == "loadfile" else None
