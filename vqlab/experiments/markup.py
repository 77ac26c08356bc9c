"""HTML and SVG in which all text is escaped: only :class:`Markup` can add an element to a page."""

import re
from html import escape

# Control characters, bidirectional overrides, and the surrogates that file names and JSON may hold.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
VOID = {"meta", "link", "img"}  # HTML's elements without an end


class Markup(str):
    """Text that is HTML already; :func:`tag` makes it and escapes any other text."""

    __slots__ = ()


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """Return an element of HTML or SVG.

    Args:
        name: Its name.
        *content: Elements, and text, which is escaped.
        **attributes: By name, ``_`` for ``-``, and ``class_`` for ``class``; None leaves one out.

    Example:
        >>> tag("td", "a < b", class_="text", data_v=None, title='"')
        '<td class="text" title="&quot;">a &lt; b</td>'
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(printable(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(part if isinstance(part, Markup) else escape(printable(str(part))) for part in content)
    return Markup(f"<{name}{pairs}>" if name in VOID else f"<{name}{pairs}>{inner}</{name}>")


def printable(text: str) -> str:
    r"""Return text in one line that a terminal, a page and UTF-8 can show.

    Example:
        >>> printable("a\nb\x1b[2Jc")
        'a b�[2Jc'
    """
    return UNPRINTABLE.sub(lambda found: " " if found[0].isspace() else "�", text)
