"""How the documentation becomes a site: ``make docs``.

Responsible for: which pages there are, in which order they are shown, and that the site asks nobody else for anything.
Refuses to know: what the pages say.

The root of the repository is the root of the site, so a link from one page to another is the same here, in an editor
and in the viewer of the repository; no page is copied.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent

project = "Pico"
author = "the authors of Pico"
copyright = "the authors of Pico; MIT licence"
version = release = re.findall(r'^__version__ = "(.+)"$', (ROOT / "pico" / "__init__.py").read_text(), re.MULTILINE)[0]

extensions = ["myst_parser"]
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "deploy/**.md", "docs/**.md", "spec/*.md"]
exclude_patterns = [".*", "bench", "build", "dist", "mutants", "pico", "stubs", "tests", "*.egg-info"]

# Anchors are those of the repository's viewer.
myst_heading_anchors = 4
nitpicky = True

html_theme = "furo"
html_title = f"Pico {version}"
html_static_path = ["_static"]
html_css_files = ["pico.css"]
html_extra_path = ["_static/root"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "github-dark"
highlight_language = "none"
