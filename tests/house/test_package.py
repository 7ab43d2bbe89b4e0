"""What is published: sdist and wheel hold every file of the package, and say what they are."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
PACKAGES = ("grail_verl", "hydra_plugins")
BUILD = "from setuptools import build_meta; build_meta.build_sdist('dist'); build_meta.build_wheel('dist')"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of what they are built from, where the build leaves its own files; and the two."""
    copy = tmp_path_factory.mktemp("package")
    for name in (*PACKAGES, "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (sdist,), (wheel,) = copy.glob("dist/*.tar.gz"), copy.glob("dist/*.whl")
    return copy, sdist, wheel


def test_both_hold_every_file_of_the_package(built):
    copy, sdist, wheel = built
    files = {str(path.relative_to(copy)) for name in PACKAGES for path in (copy / name).rglob("*") if path.is_file()}
    assert {Path(file).suffix for file in files} == {".py", ".yaml", ".html", ".css", ".js"}
    with zipfile.ZipFile(wheel) as content:
        assert files == {name for name in content.namelist() if name.startswith(PACKAGES) and ".dist-info" not in name}
    with tarfile.open(sdist) as content:
        names = {name.split("/", 1)[-1] for name in content.getnames()}
    assert files | {"README.md", "LICENSE", "pyproject.toml", "setup.py"} <= names


def test_the_wheel_says_what_it_is(built):
    *_, wheel = built
    with zipfile.ZipFile(wheel) as content:
        (path,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(content.read(path).decode())
    assert metadata["Name"] == "grail-verl" and metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] and metadata["Summary"] and metadata["Keywords"]
    assert metadata.get_all("Classifier") and metadata.get_all("Project-URL")
    needed = {need.split(";")[0] for need in metadata.get_all("Requires-Dist") if "extra ==" not in need}
    assert not any(need.startswith(("torch", "verl", "vllm", "nvidia")) for need in needed)
