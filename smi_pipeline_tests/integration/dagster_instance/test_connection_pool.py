"""The pool of Dagster's storage, against the real server: few connections, however many engines Dagster makes."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.pool import NullPool


def as_dagster_does(url: str) -> Engine:
    pooled = make_url(url).update_query_dict({"plugin": "smi_pool"})
    return create_engine(pooled, isolation_level="AUTOCOMMIT", poolclass=NullPool)


def connections(url: str) -> int:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return connection.scalar(
            text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        )


def test_many_engines_of_a_process_share_few_connections(state_url: str) -> None:
    before = connections(state_url)
    engines = [as_dagster_does(state_url) for _ in range(30)]
    for engine in engines:
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
            assert connection.dialect.server_version_info
    assert connections(state_url) - before == 1


def test_engines_in_many_threads_leave_no_more_than_the_pool_behind(state_url: str) -> None:
    before = connections(state_url)
    together = threading.Barrier(12)

    def work(_: int) -> int:
        with as_dagster_does(state_url).connect() as connection:
            together.wait(10)  # all hold a connection at once
            return connection.scalar(text("SELECT 1"))

    with ThreadPoolExecutor(12) as threads:
        assert sum(threads.map(work, range(12))) == 12
    ends = time.monotonic() + 10
    while connections(state_url) - before > 4:  # the server takes a moment to see that one has gone
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_every_engine_commits_by_itself_as_dagster_asks(state_url: str) -> None:
    with as_dagster_does(state_url).connect() as connection:
        connection.execute(text("CREATE TABLE public.written (n int)"))
    with as_dagster_does(state_url).connect() as connection:
        connection.execute(text("INSERT INTO public.written VALUES (1)"))
    with create_engine(state_url, poolclass=NullPool).connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM public.written")) == 1


def test_a_disposed_engine_takes_nothing_from_the_others(state_url: str) -> None:
    first, second = as_dagster_does(state_url), as_dagster_does(state_url)
    first.dispose()
    for engine in (first, second, as_dagster_does(state_url)):
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1


def test_another_process_has_a_pool_of_its_own(state_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = as_dagster_does(state_url)
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as after a fork
    assert as_dagster_does(state_url).pool is not parent.pool
