"""What a template asks of the texts it writes: the words that decide what it does with them.

Two conversations of one shape are written alike unless the template looks into a text: `'</think>' in content`,
`content.split(…)`, `content == …`. Here are the words that it looks for, read from its syntax tree, so that a row with
a text that holds one is taken by itself. Knows Jinja, and nothing of tokenizers and turns.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from jinja2 import nodes

WRITING = ("get", "strip", "lstrip", "rstrip", "replace", "append", "strftime", "join", "trim", "tojson", "indent",
           "default", "map", "selectattr", "rejectattr", "dictsort")  # fmt: skip
"""Methods and filters whose arguments are not looked for: fields, and what changes a text for all to see."""
FIELD = re.compile(r"\w+")
"""A word alone: `'image' in item` asks for a field, and a shape has its fields."""


@dataclass(frozen=True)
class Asked:
    """Words that a template looks for in texts, and those that it takes a whole text to be."""

    held: re.Pattern[str] | None
    equal: frozenset[str]

    def __call__(self, texts: Sequence[str]) -> bool:
        """Whether the template may do with one of these texts what it does not with another."""
        if self.held and any(map(self.held.search, texts)):
            return True
        return not self.equal.isdisjoint(text.strip() for text in texts)


def asked(tree: nodes.Template, more: Iterable[str] = ()) -> Asked:
    """What a template asks.

    Args:
        more: words that matter for another reason.
    """
    assigned = {
        each.target.name: each.node for each in tree.find_all(nodes.Assign) if isinstance(each.target, nodes.Name)
    }
    held = {word for word in _words(_looked_for(tree), assigned) if word and not FIELD.fullmatch(word)} | {*more}
    # Some look into a text in small letters.
    pattern = re.compile("|".join(map(re.escape, sorted(held))), re.IGNORECASE) if held else None
    return Asked(pattern, frozenset(_words(_compared(tree), assigned)))


def _words(found: Iterable[nodes.Node], assigned: dict[str, nodes.Node]) -> set[str]:
    """The texts in expressions, and in those that their names stand for."""
    words: set[str] = set()
    for each in found:
        names = [*([each] if isinstance(each, nodes.Name) else []), *each.find_all(nodes.Name)]
        stands_for = [assigned[name.name] for name in names if name.name in assigned]
        words = words.union(*map(_texts, [each, *stands_for]))
    return words


def _texts(node: nodes.Node) -> set[str]:
    """The texts of an expression; the field in `message['content']` is none."""
    if isinstance(node, nodes.Const):
        return {node.value} if isinstance(node.value, str) else set()
    if isinstance(node, nodes.Getitem):
        return _texts(node.node)
    return set().union(*map(_texts, node.iter_child_nodes()))


def _looked_for(tree: nodes.Template) -> Iterator[nodes.Node]:
    """What may stand somewhere in a text: on the left of `in`, beside a part of one, given to methods and filters."""
    for left, operand in _comparisons(tree):
        if operand.op in ("in", "notin") and not isinstance(operand.expr, nodes.List | nodes.Tuple):
            yield left
        if _is_part(left) or _is_part(operand.expr):
            yield from (left, operand.expr)
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr not in WRITING:
            yield from (*call.args, *(each.value for each in call.kwargs))
    for each in tree.find_all(nodes.Filter):
        if each.name not in WRITING:
            yield from each.args


def _compared(tree: nodes.Template) -> Iterator[nodes.Node]:
    """What a whole text may be."""
    for left, operand in _comparisons(tree):
        if operand.op in ("eq", "ne") or isinstance(operand.expr, nodes.List | nodes.Tuple):
            yield from (left, operand.expr)
    for test in tree.find_all(nodes.Test):
        yield from test.args


def _comparisons(tree: nodes.Template) -> Iterator[tuple[nodes.Expr, nodes.Operand]]:
    return ((compare.expr, operand) for compare in tree.find_all(nodes.Compare) for operand in compare.ops)


def _is_part(node: nodes.Node) -> bool:
    """Whether it may be a part of a text, such as `content[:7]`."""
    return isinstance(node, nodes.Getitem) and (isinstance(node.arg, nodes.Slice) or not _texts(node.arg))
