"""Which test files go to which process of pytest-xdist: one is with the running products, the others with the rest.

A test of a running product waits more than it computes. Two of them at once would leave the cores idle, and nobody
would wait later while everything else computes. So the first process takes the files of `PRODUCTS` in this order, and
all others take the rest, those with the most tests first, until they meet at the files with the fewest.
"""

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

ONE_PRODUCT = "end_to_end/one_product"
"""A folder whose files share one running product, hence a process."""
PRODUCTS = (ONE_PRODUCT, "chaos/test_chaos.py", "soak/test_soak.py", "end_to_end/test_starting_and_stopping.py")
REST_BEGINS_WITH = ("end_to_end/test_wheel.py", "integration/services/test_state_machine.py")
"""Few tests, and long ones. The wheel runs a product too: those of `PRODUCTS` take as long as it and all the rest."""


class Distribution(LoadFileScheduling):  # type: ignore[misc, unused-ignore]
    """Units of work are files, as with `--dist loadfile`, and the folder `ONE_PRODUCT`."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid).removeprefix("smi_pipeline_tests/")
        return ONE_PRODUCT if file.startswith(f"{ONE_PRODUCT}/") else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(self._next_unit(node), last=False)
        super()._assign_work_unit(node)

    def _next_unit(self, node: WorkerController) -> str:
        products = [unit for unit in PRODUCTS if unit in self.workqueue]
        long = [unit for unit in REST_BEGINS_WITH if unit in self.workqueue]
        short = [unit for unit in self.workqueue if unit not in products + long]  # in xdist's order: most tests first
        if node is self.nodes[0]:
            return (products + short[::-1] + long)[0]
        return (long + short + products[::-1])[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config) -> Distribution | None:
    """Use `Distribution` unless the command line asks for another one."""
    return Distribution(config) if config.getvalue("dist") == "loadfile" else None
