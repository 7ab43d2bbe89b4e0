"""What is published: sdist and wheel hold every file of the package, and say what they are."""

import os
import re
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
URL = "https://example.org/someone/grail-verl"  # as the release workflow gives it
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
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=copy, env={**os.environ, "GRAIL_VERL_URL": URL}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
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


def metadata_of(wheel):
    with zipfile.ZipFile(wheel) as content:
        (path,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(content.read(path).decode())


def test_links_of_what_is_published_lead_to_its_source_at_its_tag(built):
    """PyPI shows README where none of its files are."""
    metadata = metadata_of(built[-1])
    assert f"Source, {URL}" in metadata.get_all("Project-URL")
    shown, link = metadata.get_payload(), r'(?:\]\(|src="|srcset=")([^)"]+)'
    links, written = re.findall(link, shown), re.findall(link, (ROOT / "README.md").read_text(encoding="utf-8"))
    relative = [place for place in written if "://" not in place]
    assert len(relative) > 20 and [place for place in links if "://" not in place] == []
    assert [place for place in links if place.startswith(URL)] == [
        f"{URL}/{'raw' if place.endswith('.svg') else 'blob'}/v{metadata['Version']}/{place}" for place in relative
    ]
    assert all((ROOT / place.partition("#")[0]).exists() for place in relative)


def test_without_a_place_of_its_source_the_description_is_readme_as_it_is():
    environment = {name: value for name, value in os.environ.items() if name != "GRAIL_VERL_URL"}
    asked = [sys.executable, "setup.py", "--long-description"]
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip(), done.stderr


def test_the_wheel_says_what_it_is(built):
    metadata = metadata_of(built[-1])
    assert metadata["Name"] == "grail-verl" and metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] and metadata["Summary"] and metadata["Keywords"]
    assert metadata.get_all("Classifier") and metadata.get_all("Project-URL")
    needed = {need.split(";")[0] for need in metadata.get_all("Requires-Dist") if "extra ==" not in need}
    assert not any(need.startswith(("torch", "verl", "vllm", "nvidia")) for need in needed)
