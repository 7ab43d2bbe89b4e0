"""docs/ and README as pages: built without a warning, every link leads somewhere, search knows each of them."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """Where a page leads to, and the places within it."""

    def __init__(self, file: Path):
        super().__init__()
        self.links, self.places = [], {""}
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [given[name] for name in ("href", "src", "srcset") if given.get(name)]
        self.places |= {given[name] for name in ("id", "name") if given.get(name)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built as by hand."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """{file: Page} of what MkDocs made, not of the report that lies among them."""
    return {file: Page(file) for file in site.rglob("*.html") if file.name in ("index.html", "404.html")}


def test_every_page_has_its_place(site):
    written = [path for kind in ("*.md", "*.ipynb") for path in (ROOT / "docs").rglob(kind)]
    names = {str(path.relative_to(ROOT / "docs").with_suffix("")).removesuffix("/README") for path in written}
    built = {str(file.parent.relative_to(site)) for file in site.rglob("index.html")}
    assert built == {*names, ".", "contributing", "changelog"}


def test_every_link_leads_somewhere(site, pages):
    followed = 0
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or file.name == "404.html":  # another site; or from wherever one got lost
                continue
            there = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            there = there / "index.html" if there.is_dir() else there
            assert there.is_relative_to(site) and there.is_file(), (file.relative_to(site), link)
            if there in pages:
                assert unquote(parts.fragment) in pages[there].places, (file.relative_to(site), link)
            followed += 1
    assert followed > 1000


def test_nothing_is_asked_of_another_host(pages):
    for file in pages:
        for tag in ('<script src="http', '<img src="http', 'rel="stylesheet" href="http'):
            assert tag not in file.read_text(encoding="utf-8"), (file, tag)


def test_search_knows_every_page(site, pages):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    known = {entry["location"].split("#")[0] for entry in index["docs"]}
    built = {f"{file.parent.relative_to(site)}/".removeprefix("./") for file in pages if file.name == "index.html"}
    assert known == built
    assert any("standardised log-score" in entry["text"] for entry in index["docs"])


def test_readme_is_short_and_shows_before_it_tells():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 900
    assert text.index("<picture>") < text.index("grail-verl attribute") < text.index("\n## ")


def test_options_and_presets_are_those_that_there_are():
    from dataclasses import fields

    from grail_verl import GrailConfig

    def first_cells(heading):
        section = text[text.index(heading) :].split("\n## ")[0]
        rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
        return {name.strip(" `"): row for row in rows for name in row[0].split(",")}

    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8") + "\n## "
    options = first_cells("## Each option")
    assert options.keys() == {field.name for field in fields(GrailConfig)}
    for name in ("std", "mean", "total", "share", "hops", "leaf", "rollouts", "alignment", "occurrence", "statistics"):
        assert options[name][1].strip() == str(getattr(GrailConfig(), name))
    presets = {name.removeprefix("+grail=") for name in first_cells("## Presets")}
    assert presets == {path.stem for path in (ROOT / "grail_verl" / "conf" / "grail").glob("*.yaml")}


def test_versions_are_said_once():
    """setup.py has it; what cites or lists changes names none of its own that differs."""
    version = re.search(r'VERSION = "(.*)"', (ROOT / "setup.py").read_text(encoding="utf-8"))[1]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changes.split("\n## ")[1].split()[0].strip(",") == version
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["authors"] and "version" not in citation
