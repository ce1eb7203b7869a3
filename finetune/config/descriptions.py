"""What the source says of each field of a dataclass: the text that stands below it.

Knows Python source. Knows no field by name.
"""

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise


@cache
def of(cls: type) -> dict[str, str]:
    """Field to the text below it, of a class and those it inherits; a field without one is left out."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__[:-1]):
        found |= _own(owner)
    return found


def _own(cls: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):  # a class without a file, such as one that was generated
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }
