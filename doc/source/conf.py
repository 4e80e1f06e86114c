"""Sphinx configuration."""

project = 'zun-virt'
copyright = 'the zun-virt authors'
extensions: list[str] = []
html_theme = 'alabaster'
exclude_patterns: list[str] = []
