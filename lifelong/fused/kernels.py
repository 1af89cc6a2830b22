"""Loops over float32 weights for `lifelong.fused`, compiled by numba at their first use.

Each sums up where torch needs several operations, and with them several times the traffic between
memory and processor. Sums are rounded as torch's own (`contract`: a product and a sum at once), so
that the results are equal to the last bit.

A table has a row for each parameter: addresses of its tensors, and its number of elements.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import types
from numba.extending import intrinsic

_loop = numba.njit(cache=True, error_model="numpy", fastmath={"contract"})


@intrinsic
def _at(typing: Any, address: Any) -> Any:  # noqa: ARG001
    def cast(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], target.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), cast


@_loop
def _pull_one(gradient: Any, weight: Any, anchor: Any, importance: Any, n: Any, by: Any) -> Any:
    g, w = numba.carray(gradient, n), numba.carray(weight, n)
    a, f = numba.carray(anchor, n), numba.carray(importance, n)
    bad = 0
    for i in range(n):
        pulled = g[i] + (by * (w[i] - a[i])) * f[i]
        g[i] = pulled
        bad += (pulled - pulled) != 0  # infinity minus itself is no number
    return bad


@_loop
def pull(table: Any, by: Any) -> Any:
    """gradient += by * (weight - anchor) * importance; returns how many came out not finite.

    The table's columns: gradient, weight, anchor, importance, elements.
    """
    bad = 0
    for k in range(len(table)):
        g, w, a, f, n = table[k]
        bad += _pull_one(_at(g), _at(w), _at(a), _at(f), n, by)
    return bad


@_loop
def _keep_one(
    kept: Any, gradient: Any, weight: Any, anchor: Any, importance: Any, n: Any, by: Any
) -> Any:
    k, g, w = numba.carray(kept, n), numba.carray(gradient, n), numba.carray(weight, n)
    a, f = numba.carray(anchor, n), numba.carray(importance, n)
    bad = 0
    for i in range(n):
        own = g[i]
        pulled = own + (by * (w[i] - a[i])) * f[i]
        k[i] = own
        g[i] = pulled
        bad += (pulled - pulled) != 0
    return bad


@_loop
def keep_and_pull(table: Any, by: Any) -> Any:
    """kept = gradient, then as `pull`.

    The table's columns: kept, gradient, weight, anchor, importance, elements.
    """
    bad = 0
    for row in range(len(table)):
        k, g, w, a, f, n = table[row]
        bad += _keep_one(_at(k), _at(g), _at(w), _at(a), _at(f), n, by)
    return bad


@_loop
def _walk_one(path: Any, gradient: Any, weight: Any, latest: Any, n: Any) -> None:
    p, g = numba.carray(path, n), numba.carray(gradient, n)
    w, before = numba.carray(weight, n), numba.carray(latest, n)
    for i in range(n):
        p[i] = p[i] - (w[i] - before[i]) * g[i]
        before[i] = w[i]


@_loop
def walk(table: Any) -> None:
    """path -= (weight - latest) * gradient, then latest = weight.

    The table's columns: path, gradient, weight, latest, elements.
    """
    for k in range(len(table)):
        p, g, w, before, n = table[k]
        _walk_one(_at(p), _at(g), _at(w), _at(before), n)
