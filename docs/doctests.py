"""For the reference: puts the doctests of docstrings into blocks of code.

Otherwise their lines would be read as Markdown.
"""

import re

import griffe

# From the first prompt to the next empty line.
DOCTEST = re.compile(r"^>>> .+(?:\n.+)*", re.M)


class Doctests(griffe.Extension):
    """Changes each docstring once the package is loaded."""

    def on_object(self, *, obj, **kwargs):
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
