# SPDX-License-Identifier: GPL-2.0-only
"""For Sphinx: make htmldocs, and scripts/lint, which takes each warning for an error."""

project = "nvgrace_gpu"
author = "the nvgrace_gpu project"
copyright = "2026, " + author
extensions = []
nitpicky = True
highlight_language = "none"
html_theme = "alabaster"
html_theme_options = {"page_width": "64rem", "sidebar_width": "14rem", "font_size": "1rem"}
html_copy_source = False
