"""The API reference, from docstrings: sphinx-build -W docs/api build/api"""

import re

import pykernels

project = "vae-kernels"
version = release = pykernels.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
default_role = "code"  # `value` is an argument, as in Markdown
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
html_theme = "alabaster"
html_theme_options = {"description": pykernels.__doc__, "page_width": "1100px"}


def escape(app, what, name, obj, options, lines):
    """Shapes like [*batch, B] and absolute values are written as they are in docstrings; both mean something in RST."""
    lines[:] = [
        line if ":math:" in line else re.sub(r"\*(?=\w)|(?<!\\)\|", r"\\\g<0>", line) for line in lines
    ]


def setup(app):
    app.connect("autodoc-process-docstring", escape, priority=100)  # before its sections are read
