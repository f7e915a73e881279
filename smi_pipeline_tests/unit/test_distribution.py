"""The processes of pytest-xdist share the files as meant."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from smi_pipeline_tests.distribution import LONG, ONE_PRODUCT, PRODUCTS, SHARED, Distribution

TESTS = Path(__file__).parents[1]
PRODUCT_UNITS = [unit for line in PRODUCTS for unit in line]
MANY, SOME, FEW = "unit/test_many.py", "unit/test_some.py", "unit/test_few.py"


class Process:
    def __init__(self) -> None:
        self.given: list[int] = []

    def send_runtest_some(self, indexes: list[int]) -> None:
        self.given += indexes


@pytest.mark.parametrize("unit", [*PRODUCT_UNITS, LONG, SHARED])
def test_what_is_named_is_there(unit: str) -> None:
    assert (TESTS / unit).exists()


@pytest.mark.parametrize(
    ("turns", "shares"),
    [
        ((0, 1, 1, 1, 0, 0, 1, 0, 1), [[*PRODUCTS[0], FEW], [*PRODUCTS[1], LONG, MANY, SOME]]),
        ((0, 1, 2, 2, 1, 0, 0, 2, 1), [PRODUCTS[0], [*PRODUCTS[1], FEW], [LONG, MANY, SOME]]),
        ((1,) * 9, [[], [*PRODUCTS[1], LONG, MANY, SOME, FEW, *PRODUCTS[0][::-1]]]),
    ],
)
def test_products_come_first_and_two_at_a_time_and_the_rest_is_shared(turns: tuple[int, ...], shares: list) -> None:
    files = [MANY, SOME, f"{ONE_PRODUCT}/test_a.py", *PRODUCT_UNITS[1:], FEW, LONG]
    tests = [f"smi_pipeline_tests/{file}::test_it" for file in files]
    processes = [Process() for _ in shares]
    scheduler: Any = object.__new__(Distribution)
    scheduler.assigned_work = {process: {} for process in processes}
    scheduler.registered_collections = dict.fromkeys(processes, tests)
    scheduler.workqueue = OrderedDict((scheduler._split_scope(test), {test: False}) for test in tests)
    for turn in turns:
        scheduler._assign_work_unit(processes[turn])
    named = [ONE_PRODUCT if file.startswith(ONE_PRODUCT) else file for file in files]
    assert [[named[n] for n in process.given] for process in processes] == [list(share) for share in shares]
    assert not scheduler.workqueue


def test_each_fault_goes_to_the_next_process_that_is_free() -> None:
    scheduler: Any = object.__new__(Distribution)
    tests = [f"smi_pipeline_tests/{SHARED}::test_it[{number}]" for number in range(2)]
    assert [scheduler._split_scope(test) for test in tests] == tests
