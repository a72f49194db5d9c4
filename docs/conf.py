"""The documentation as a site: `make docs` builds it into `docs/_build/html`, without network.

Pages are Markdown (MyST). Formulas become MathML, which browsers draw by themselves, so that no
page loads anything from elsewhere.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # autodoc imports the package
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import readable
from docutils.nodes import SkipNode
from docutils.utils.math import latex2mathml

import moa_jax

project = "moa_jax"
author = "the authors of moa_jax"
copyright = "the authors of moa_jax, Apache-2.0"
version = release = moa_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "evaluation/rows"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3  # a link may go to any heading of the first three levels
myst_links_external_new_tab = False
nb_execution_mode = "off"  # what runs, runs in the tests
default_role = "py:obj"  # a name in backticks is a link where it is one, and code where it is not
# Other projects' types cannot be looked up without network.
nitpick_ignore_regex = [("py:obj", ".*"), ("py:(class|exc|data)", r"(?!moa_jax\.).*")]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has them
python_use_unqualified_type_names = True
maximum_signature_line_length = 80

html_theme = "furo"
pygments_dark_style = "monokai"  # furo's own underlines names, and hides their underscores
html_title = "moa_jax"
html_static_path = ["_static", *map(str, Path(__file__).parent.glob("applications/routing_*"))]
html_css_files = ["moa.css"]
html_copy_source = False
html_show_sphinx = False


html_math_renderer = "mathml"


def setup(app: Any) -> None:
    """Add what Sphinx does not have: formulas as MathML, and signatures as in the source."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
    app.connect("autodoc-process-signature", readable.signature)
    app.connect("autodoc-process-docstring", readable.one_return, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", readable.skip)


def _inline_math(translator: Any, node: Any) -> None:
    translator.body.append(latex2mathml.tex2mathml(node.astext(), as_block=False))
    raise SkipNode


def _block_math(translator: Any, node: Any) -> None:
    formula = latex2mathml.tex2mathml(node.astext(), as_block=True)
    translator.body.append(f'<div class="formula">{formula}</div>')
    raise SkipNode
