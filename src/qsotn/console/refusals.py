"""Which refusal codes a step can end in, read from the source of its function and of what that function calls.

A code is found where it is written: `Refusal("CODE", …)`, in the step function, in a function of its own module, or in
a method of the party it is given, as deep as these call each other within `qsotn.procedures`, `qsotn.parties` and
`qsotn.keynetwork`. `KeyShortage` counts as KEY_SHORTAGE and `KeyReuse` as KEY_REUSED, the codes that
`qsotn.runtime.failing.as_refusal` sends for them.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from qsotn.errors import KeyReuse, KeyShortage, Refusal

_WITHIN = ("qsotn.procedures.", "qsotn.parties.", "qsotn.keynetwork.")


def refusal_codes(act: Callable[..., object]) -> tuple[str, ...]:
    """Return the codes of one step function, sorted."""
    seen: set[FunctionType] = set()
    return tuple(sorted(set(_codes(act, None, seen))))


def _codes(function: object, owner: type | None, seen: set[FunctionType]) -> Iterator[str]:
    if not isinstance(function, FunctionType) or function in seen or not function.__module__.startswith(_WITHIN):
        return
    seen.add(function)
    source = textwrap.dedent(inspect.getsource(function))
    objects = _annotated(function, owner)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield from _code_of(node, function)
            target, its_owner = _target(node.func, function, objects)
            yield from _codes(target, its_owner, seen)


def _annotated(function: FunctionType, owner: type | None) -> dict[str, type]:
    """Return the parameters whose class is known: `self`, and those annotated with a class of the module."""
    objects = {} if owner is None else {"self": owner}
    for name, annotation in function.__annotations__.items():
        kind = function.__globals__.get(str(annotation))
        if isinstance(kind, type):
            objects[name] = kind
    return objects


def _code_of(call: ast.Call, function: FunctionType) -> Iterator[str]:
    raised = function.__globals__.get(call.func.id) if isinstance(call.func, ast.Name) else None
    if raised is Refusal and isinstance(call.args[0], ast.Constant):
        yield str(call.args[0].value)
    elif raised is KeyShortage:
        yield "KEY_SHORTAGE"
    elif raised is KeyReuse:
        yield "KEY_REUSED"


def _target(called: ast.expr, function: FunctionType, objects: dict[str, type]) -> tuple[Any, type | None]:
    """Return the function a call means, and the class it is a method of."""
    match called:
        case ast.Name(name):
            return function.__globals__.get(name), None
        case ast.Attribute(ast.Name(name), attribute) if name in objects:
            return inspect.getattr_static(objects[name], attribute, None), objects[name]
        case ast.Attribute(ast.Name(name), attribute):
            return inspect.getattr_static(function.__globals__.get(name), attribute, None), None
    return None, None
