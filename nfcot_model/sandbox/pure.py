"""Can two answers share a process because neither can do anything but compute?

Standard library only: the worker imports this module into its clean interpreter.
"""

from __future__ import annotations

import ast

__all__ = ["BUILTINS", "is_pure"]

_LONGEST = 2000
_ALLOWED = (
    ast.Expression,
    ast.Lambda,
    ast.arguments,
    ast.arg,
    ast.expr_context,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.Constant,
    ast.Name,
    ast.Subscript,
    ast.Slice,
    ast.List,
    ast.Tuple,
    ast.Dict,
    ast.Set,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.comprehension,
    ast.Call,
    ast.keyword,
)
_FUNCTIONS = (
    *(abs, all, any, bool, dict, divmod, enumerate, float, int, len, list, max, min, pow, range),
    *(reversed, round, set, sorted, str, sum, tuple, zip),
)
BUILTINS = {function.__name__: function for function in _FUNCTIONS}


def is_pure(answer: str) -> bool:
    """Is `answer` a lambda that can reach nothing but its arguments?

    True for an expression of operators, indexing, literals, comprehensions and calls of a few
    builtins by name, without attribute access and without any other name: run with `BUILTINS` as
    its only builtins it keeps no state and sees none, so it can neither help nor harm another
    answer in the same process. It can still be slow or large. False says only "not seen to be".
    """
    if len(answer) > _LONGEST:
        return False
    try:
        tree = ast.parse(answer.strip(), "<answer>", "eval")
        nodes = list(ast.walk(tree))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    if type(tree.body) is not ast.Lambda or not all(isinstance(n, _ALLOWED) for n in nodes):
        return False
    bound = {n.arg for n in nodes if isinstance(n, ast.arg)}
    names = [n for n in nodes if isinstance(n, ast.Name)]
    bound |= {n.id for n in names if isinstance(n.ctx, ast.Store)}
    return all(n.id in bound or n.id in BUILTINS for n in names)
