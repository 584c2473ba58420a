"""Parts of web pages that several programs share: cards with a slider, filters, a large view.

`compare.html` holds the markup as Jinja2 macros, `compare.css` the look, `compare.js` the
behaviour. They load nothing from elsewhere and run under a strict content security policy:
`policy` names the style sheet and the script by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from comet_async.errors import MissingExtraError

if TYPE_CHECKING:
    import jinja2


@cache
def read(name: str) -> str:
    """Return the text of the asset *name*, such as ``"compare.css"``."""
    return resources.files(__name__).joinpath(name).read_text("utf-8")


def policy(*, images: str = "data:") -> str:
    """Return the content security policy of a page with both assets inline.

    Args:
        images: Where its images may come from, as CSP sources.
    """
    style, script = _digest("compare.css"), _digest("compare.js")
    return (
        f"default-src 'none'; img-src {images}; style-src-elem {style}; "
        f"style-src-attr 'unsafe-inline'; script-src {script}; base-uri 'none'; form-action 'none'"
    )


@cache
def _digest(name: str) -> str:
    digest = base64.b64encode(hashlib.sha256(read(name).encode()).digest()).decode()
    return f"'sha256-{digest}'"


def environment(**templates: str) -> jinja2.Environment:
    """Return a Jinja2 environment with the shared templates and *templates*, by name.

    Everything is escaped, and an unknown name is an error. ``read`` and ``policy`` are functions
    of each template.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError("a page needs Jinja2", extra="report") from None
    found = {"compare.html": read("compare.html"), **templates}
    made = jinja2.Environment(
        loader=jinja2.DictLoader(found),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions: dict[str, Any] = {"read": read, "policy": policy}
    made.globals.update(functions)
    return made
