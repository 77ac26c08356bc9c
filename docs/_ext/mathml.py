"""Write the formulas of the pages as MathML, which browsers show without a script and without network."""

import re

from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def render(latex, display="inline"):
    """Return a formula as MathML, with the spaces that TeX would set.

    Raises:
        ExtensionError: If the formula has a command that latex2mathml does not know.
    """
    mathml = convert(latex, display=display).replace(r"<mi>\arg</mi>", '<mo rspace="0.167em">arg</mo>')
    mathml = re.sub(
        r"<mo[^>]*>(&#x0007C;|&#x02016;)</mo>", r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', mathml
    )
    mathml = re.sub(r"<mo>(max|min)</mo>(?=<mo stretchy)", r"<mi>\1</mi>", mathml)
    mathml = re.sub(r"<mi>(ln|exp)</mi>(?!<mo)", r'<mo lspace="0.167em" rspace="0.167em">\1</mo>', mathml)
    mathml = mathml.replace('<mo stretchy="true">&#x000AF;</mo>', '<mo stretchy="false">&#x000AF;</mo>')  # a short bar
    if unknown := re.findall(r">(\\\w+)<", mathml):
        raise ExtensionError(f"the formula {latex} has unknown commands: {', '.join(unknown)}")
    return mathml


def inline(translator, node):
    """Write a formula within a line."""
    translator.body.append(render(node.astext()))
    skip()


def block(translator, node):
    """Write a formula on a line of its own, which scrolls where it is wider than the page."""
    translator.body.append('<div class="formula">' + render(node.astext(), "block") + "</div>\n")
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
