"""What mkdocs.yml does not say by itself: a hook of MkDocs, which turns this repository's Markdown into pages.

README and its neighbours are pages, too, without a copy in docs/. Links are written for whoever reads the repository; a
page's lead to pages, to pictures, or to the file itself, which is then a part of the site. A folder is no page: there a
link's text stays alone.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(
    r"""(?:\[(?P<text>[^\[\]]*)\]\(|(?P<html>src(?:set)?="))(?P<target>[^()"#\s]+)(?P<rest>[^()"\s]*)[)"]"""
)


def on_files(files, config):
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    home = next((source for source, name in OUTSIDE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")

    def rewritten(link):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(home), link["target"]))
        if not (ROOT / path).exists():  # another site, or no link at all; MkDocs tells of what is missing
            return link[0]
        if (ROOT / path).is_dir():
            return link["text"]
        uri = OUTSIDE.get(path) or path.removeprefix("docs/")
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
        there = os.path.relpath(uri, posixpath.dirname(page.file.src_uri) or ".") + link["rest"]
        return f'{link["html"]}{there}"' if link["html"] else f"[{link['text']}]({there})"

    return LINK.sub(rewritten, markdown)


def on_page_content(html, page, config, files):
    """A notebook's links, which mkdocs-jupyter leaves as they stand."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    there = lambda link: f'href="{files.get_file_from_path(link[1]).url_relative_to(page.file)}"'  # noqa: E731
    return re.sub(r'href="([\w/]+\.md)"', there, html)
