"""The wheel: complete, and able to run the demo when it is installed without the checkout.

By default the virtual environment of the wheel borrows the libraries of the one that runs the tests. With SMI_FULL=1
(`make wheel-test`) pip installs them all into it, as it does for a user.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest
import requests
from redis import Redis

from smi_pipeline.demo.scenario import MINIMUM_JOBS
from smi_pipeline_tests import servers

CHECKOUT = Path(__file__).parents[2]
FULL = os.environ.get("SMI_FULL") == "1"
SCRIPT = """#!{python}
from importlib.metadata import entry_points
raise SystemExit(entry_points(group="console_scripts")["{name}"].load()())
"""

pytestmark = pytest.mark.timeout(900 if FULL else 300)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that the embedded server's own user may enter, which pytest's are not always."""
    with tempfile.TemporaryDirectory(prefix="smi-wheel-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    """The wheel, built from a copy: setuptools would take files that were deleted since from an old `build/`."""
    source = folder / "source"
    shutil.copytree(CHECKOUT / "smi_pipeline", source / "smi_pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(CHECKOUT / name, source)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True)
    return source / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def programs(wheel: Path, folder: Path) -> Path:
    """The folder of `python` and `smi` of a virtual environment in which the wheel is installed."""
    home = folder / "venv"
    venv.create(home, with_pip=FULL)
    bin_folder = home / "bin"
    if FULL:
        pip: list[str | Path] = [bin_folder / "python", "-m", "pip", "install", "-q"]
        subprocess.run([*pip, "-c", CHECKOUT / "constraints.txt", wheel], check=True)
        return bin_folder
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # searched after the wheel
    for name in ("smi", "dagster", "dagster-daemon", "dagster-webserver"):
        script = bin_folder / name
        script.write_text(SCRIPT.format(python=bin_folder / "python", name=name))
        script.chmod(0o755)
    return bin_folder


@pytest.fixture
def empty(folder: Path) -> Iterator[Path]:
    """An empty working folder, with a space in its path."""
    path = folder / "a folder"
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


def run(argv: list[str | Path], cwd: Path, **variables: str) -> str:
    """Run a program that knows nothing of this process's environment; return its output."""
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **variables}
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    package = wheel.parent / "smi_pipeline"
    expected = {str(path.relative_to(wheel.parent)) for path in package.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_the_wheel_brings_the_libraries_of_redis_and_s3_without_an_extra(wheel: Path) -> None:
    """The virtual environment of these tests would hide that one is missing."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    needed = {line.strip() for line in metadata.get_all("Requires-Dist") or () if "extra ==" not in line}
    assert needed >= {"s3fs", "celery[redis]"}


def test_the_demo_runs_from_the_wheel_on_redis_and_s3_in_a_folder_with_a_space(programs: Path, empty: Path) -> None:
    where = run([programs / "python", "-c", "import smi_pipeline; print(smi_pipeline.__file__)"], empty)
    assert where.startswith(str(programs.parent))
    with servers.redis(empty) as broker, servers.s3("shop") as variables:
        options = ["--jobs", str(MINIMUM_JOBS), "--json", "out.json"]
        options += ["--broker-url", broker, "--storage-url", "s3://shop/files"]
        run([programs / "smi", "demo", "--once", *options], empty, **variables)
        stored = requests.get(f"{variables['AWS_ENDPOINT_URL']}/shop", timeout=10).text
        with Redis.from_url(broker) as client:
            commands = client.info("commandstats")
    result = json.loads((empty / "out.json").read_text())
    assert len(result["jobs"]) == MINIMUM_JOBS
    assert result["violations"] == []
    assert commands["cmdstat_lpush"]["calls"] > 1 and commands["cmdstat_brpop"]["calls"] > 1, "runs came through Redis"
    assert "<Key>files/results/" in stored
    stack = empty / ".smi" / "demo" / "stack"
    assert " " in str(stack) and (stack / "postgres").is_dir(), "all of it lies in the folder with a space"
    assert not (stack / "storage").exists()


def test_the_front_is_written_from_the_wheel_in_an_empty_folder(programs: Path, empty: Path) -> None:
    variables = {
        "SMI_PUBLIC_URL": "http://127.0.0.1:8081",
        "SMI_TEAM_URL": "http://127.0.0.1:8082",
        "SMI_UI_USER": "team",
        "SMI_UI_PASSWORD": "password-of-the-team",
    }
    run([programs / "smi", "front", "front"], empty, **variables)
    assert "127.0.0.1:8082" in (empty / "front" / "nginx.conf").read_text()
