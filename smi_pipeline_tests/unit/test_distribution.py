"""The processes of pytest-xdist share the files as meant, in an order that ends with short ones."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from smi_pipeline_tests.distribution import ONE_PRODUCT, PRODUCTS, REST_BEGINS_WITH, Distribution

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("unit", (*PRODUCTS, *REST_BEGINS_WITH))
def test_what_is_named_is_there(unit: str) -> None:
    assert (TESTS / unit).exists()


def test_one_process_takes_the_products_and_the_other_the_rest_until_they_meet() -> None:
    class Node:
        def __init__(self) -> None:
            self.given: list[int] = []

        def send_runtest_some(self, indexes: list[int]) -> None:
            self.given += indexes

    first, other = Node(), Node()
    scheduler: Any = object.__new__(Distribution)
    scheduler.assigned_work = {first: {}, other: {}}
    files = ["unit/test_many.py", f"{ONE_PRODUCT}/test_a.py", f"{ONE_PRODUCT}/test_b.py", *PRODUCTS[1:]]
    files += [*REST_BEGINS_WITH, "unit/test_few.py"]
    tests = [f"smi_pipeline_tests/{file}::test_it" for file in files]
    scheduler.registered_collections = {first: tests, other: tests}
    scheduler.workqueue = OrderedDict()
    for test in tests:
        scheduler.workqueue.setdefault(scheduler._split_scope(test), {})[test] = False
    for node in (first, other, other, first, first, first, first, other, other):
        if scheduler.workqueue:
            scheduler._assign_work_unit(node)
    assert [files[n] for n in first.given] == [*files[1:3], *PRODUCTS[1:], "unit/test_few.py"]
    assert [files[n] for n in other.given] == [*REST_BEGINS_WITH, "unit/test_many.py"]
