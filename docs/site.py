"""What mkdocs needs to make one site of docs/ and of the pages that stand beside what they describe.

A page outside of docs/ keeps its path within the repository (examples/pipecat/README.md); links between both are those
that a reader of the repository follows.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BESIDE = ("examples/*/README.md", "benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)#:\s]+)(?=[)#])")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that stand outside of docs/."""
    for pattern in BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: object) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here = _in_repository(page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), found["target"]))
        on_site = target.removeprefix("docs/")
        if files.get_file_from_path(on_site) is None:
            return found["target"]
        return posixpath.relpath(on_site, posixpath.dirname(page.file.src_uri) or ".")

    return _LINK.sub(link, markdown)


def _in_repository(src_uri: str) -> str:
    return src_uri if (ROOT / src_uri).exists() else f"docs/{src_uri}"
