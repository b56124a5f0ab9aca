"""Which names a Lua file uses without defining them, and which names it offers to files that require it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from luaparser import ast, astnodes

PROVIDED = frozenset(
    {"ARGV", "KEYS", "redis", "cjson", "cmsgpack", "struct", "bit", "string", "table", "math", "pairs", "ipairs",
    "next", "select", "type", "tonumber", "tostring", "unpack", "error", "assert", "pcall", "xpcall", "rawget",
    "rawset", "rawequal", "setmetatable", "getmetatable"}
)  # fmt: skip
"""Global names that the server gives every script (https://valkey.io/topics/lua-api/)."""


@dataclass
class Names:
    """The names of one Lua file.

    Attributes:
        unknown: names that it reads or writes without having defined them before.
        local: the local names of its outermost block: a library's offer. A name that is defined twice is listed twice.
    """

    unknown: set[str] = field(default_factory=set)
    local: list[str] = field(default_factory=list)


def names_of(source: str) -> Names:
    """The names of a Lua text."""
    walk = _Walk()
    scope: set[str] = set()
    for statement in ast.parse(source).body.body:
        scope = walk.statement(statement, scope)
        walk.names.local += _defined(statement)
    return walk.names


def _defined(statement: Any) -> list[str]:
    match statement:
        case astnodes.LocalAssign():
            return [target.id for target in statement.targets]
        case astnodes.LocalFunction():
            return [statement.name.id]
    return []


class _Walk:
    """Goes through a syntax tree with the local names that are visible at each place."""

    def __init__(self) -> None:
        self.names = Names()

    def statement(self, node: Any, scope: set[str]) -> set[str]:
        """Look into a statement; the names that are visible after it."""
        match node:
            case astnodes.LocalAssign():
                self._all(node.values, scope)
                return scope | set(_defined(node))
            case astnodes.LocalFunction():
                scope = scope | set(_defined(node))
                self._function(node, scope)
            case astnodes.Fornum():
                self._all([node.start, node.stop, node.step], scope)
                self._block(node.body, scope | {node.target.id})
            case astnodes.Forin():
                self._all(node.iter, scope)
                self._block(node.body, scope | {target.id for target in node.targets})
            case astnodes.Repeat():
                # The condition sees the names of the body.
                self._visit(node.test, self._block(node.body, scope))
            case _:
                self._visit(node, scope)
        return scope

    def _block(self, block: Any, scope: set[str]) -> set[str]:
        for statement in block.body:
            scope = self.statement(statement, scope)
        return scope

    def _function(self, node: Any, scope: set[str]) -> None:
        self._block(node.body, scope | {arg.id for arg in node.args if isinstance(arg, astnodes.Name)})

    def _all(self, nodes: Iterable[Any], scope: set[str]) -> None:
        for node in nodes:
            self._visit(node, scope)

    def _visit(self, node: Any, scope: set[str]) -> None:
        """Look into an expression, or a statement that defines no local name."""
        match node:
            case astnodes.Name():
                if node.id not in scope:
                    self.names.unknown.add(node.id)
            case astnodes.Block():
                self._block(node, scope)
            case astnodes.Function():
                self._visit(node.name, scope)
                self._function(node, scope)
            case astnodes.AnonymousFunction():
                self._function(node, scope)
            case astnodes.Index() if node.notation is astnodes.IndexNotation.DOT:
                self._visit(node.value, scope)
            case astnodes.Invoke():
                self._all([node.source, *node.args], scope)
            case astnodes.Field():
                self._all([node.value, *([node.key] if node.between_brackets else [])], scope)
            case astnodes.Node():
                children = {key: value for key, value in vars(node).items() if not key.startswith("_")}
                for child in children.values():
                    self._all(child if isinstance(child, list) else [child], scope)
