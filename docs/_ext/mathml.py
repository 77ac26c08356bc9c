"""Write the formulas of the pages as MathML, which browsers show without a script and without network."""

from latex2mathml.converter import convert
from sphinx.application import Sphinx


def inline(translator, node):
    """Write a formula within a line."""
    translator.body.append(convert(node.astext()))
    skip()


def block(translator, node):
    """Write a formula on a line of its own, which scrolls where it is wider than the page."""
    translator.body.append('<div class="formula">' + convert(node.astext(), display="block") + "</div>\n")
    skip()


def skip():
    """Leave out the children of the node, which is its text."""
    from docutils.nodes import SkipNode

    raise SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
