"""The process that proves equalities: `python -P worker.py PARENT`, a JSON line in, a line with the verdict out.

It imports nothing of its-proxy, so that it begins fast and can be ended at any moment. Its own limits hold even where
its parent cannot end it: memory, processor time a pair, and the end of its parent.
"""

import ctypes
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

MEMORY_BYTES = 512 * 2**20
CPU_S = 1
_PR_SET_PDEATHSIG = 1
_DIGITS = 40
_CONTAINERS = ("tuple", "set", "list", "interval")


def main() -> None:
    die_with(int(sys.argv[1]))
    os.nice(5)  # where cores are few, its parent's event loop goes first
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at a terminal Ctrl-C reaches it too, and its parent ends in order
    warm_up()
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_AS, MEMORY_BYTES)
    say("ready")
    for line in sys.stdin:
        limit_cpu()
        first, second = json.loads(line)
        say(verdict_on(first, second))


def warm_up() -> None:
    """What is slow the first time is done before the first pair: importing sympy, and filling its caches."""
    sine, cosine = (["pow", "", ["function", name, ["symbol", "x"]], ["number", "2"]] for name in ("sin", "cos"))
    prove(["add", "", sine, cosine], ["number", "1"])
    prove(["root", "2", ["number", "8"]], ["mul", "", ["number", "2"], ["root", "2", ["number", "2"]]])


def say(word: str) -> None:
    print(word, flush=True)


def die_with(parent: int) -> None:
    """On Linux, be killed when the parent ends; elsewhere the end of the input has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that call
        os._exit(1)


def limit_cpu() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + CPU_S))


def limit(kind: int, soft: int) -> None:
    """The hard limit stays: what may be raised again tomorrow, and what somebody else has set."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def verdict_on(first: list[Any], second: list[Any]) -> str:
    try:
        return prove(first, second)
    except MemoryError:
        say("exhausted")
        os._exit(1)  # what is left of the process is not to be trusted
    except Exception:  # whatever sympy raises, it is no proof
        return "unproven"


def prove(first: list[Any], second: list[Any]) -> str:
    """`equal` only where the difference is zero by exact algebra, never because two numbers are near each other."""
    kinds = {first[0], second[0]}
    if not kinds & {*_CONTAINERS, "infinity"}:
        return prove_zero(built(first) - built(second))
    if kinds == {"infinity"}:
        return "equal" if first == second else "different"
    if kinds == {"set", "list"} or kinds == {"set"} or kinds == {"list"}:
        return prove_matched(first[2:], second[2:])
    if first[:2] != second[:2] or len(first) != len(second):
        return "different"
    return all_of(prove(mine, yours) for mine, yours in zip(first[2:], second[2:], strict=True))


def all_of(verdicts: Any) -> str:
    found = set(verdicts)
    if "different" in found:
        return "different"
    return "unproven" if "unproven" in found else "equal"


def prove_matched(first: Sequence[list[Any]], second: Sequence[list[Any]]) -> str:
    """Whether each element has its equal on the other side, in whatever order."""
    if len(first) != len(second):
        return "different"
    left = list(second)
    is_sure = True
    for mine in first:
        verdicts = [prove(mine, yours) for yours in left]
        if "equal" in verdicts:
            del left[verdicts.index("equal")]
        elif "unproven" in verdicts:
            is_sure = False
        else:
            return "different"
    return "equal" if is_sure else "unproven"


def prove_zero(difference: Any) -> str:
    import sympy

    if difference == 0:
        return "equal"
    if is_surely_not_zero(difference):
        return "different"
    for simpler in (sympy.expand, sympy.radsimp, lambda value: sympy.cancel(sympy.together(value)), sympy.simplify):
        if simpler(difference) == 0:
            return "equal"
    if not difference.free_symbols and difference.is_algebraic:
        unknown = sympy.Dummy()
        return "equal" if sympy.minimal_polynomial(difference, unknown) == unknown else "different"
    return "unproven"


def is_surely_not_zero(difference: Any) -> bool:
    """By its value at one point: cheap, and most pairs end here."""
    import sympy

    symbols = sorted(difference.free_symbols, key=str)
    point = {symbol: sympy.Rational(sympy.prime(7 + k), sympy.prime(5 + k)) for k, symbol in enumerate(symbols)}
    with suppress(TypeError):
        value = abs(difference.subs(point).evalf(_DIGITS, maxn=4 * _DIGITS))
        return bool(value.is_finite and value > sympy.Float(10) ** (-_DIGITS // 2))
    return False


def built(node: list[Any]) -> Any:
    """Raises ArithmeticError where the value is not finite: infinities would cancel, or vanish as divisors."""
    import sympy

    value = evaluated(node[0], node[1], [built(part) for part in node[2:]])
    if value.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        raise ArithmeticError
    return value


def evaluated(kind: str, value: str, parts: list[Any]) -> Any:
    import sympy

    match kind:
        case "number":
            return sympy.Rational(value)
        case "symbol":
            return sympy.Symbol(value)
        case "pi":
            return sympy.pi
        case "e":
            return sympy.E
        case "add":
            return sympy.Add(*parts)
        case "neg":
            return -parts[0]
        case "mul":
            return sympy.Mul(*parts)
        case "div":
            return parts[0] / not_zero(parts[1])
        case "pow":
            return sympy.Pow(parts[0] if parts[1].is_positive else not_zero(parts[0]), parts[1])
        case "root":
            return real_root(parts[0], int(value))
        case "log":
            return sympy.log(parts[1]) / sympy.log(parts[0])
        case "function":
            return called(value, parts[0])
    raise ValueError(f"no expression is called {kind}")


def not_zero(value: Any) -> Any:
    """Raises ArithmeticError: `0/(1-1)` and `1` are not to be found equal by cancelling what is nothing."""
    if not is_surely_not_zero(value):
        raise ArithmeticError
    return value


def real_root(value: Any, index: int) -> Any:
    import sympy

    if index % 2 and value.is_negative:
        return -sympy.root(-value, index)
    return sympy.root(value, index)


def called(name: str, argument: Any) -> Any:
    import sympy

    names = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log"}
    if name == "log":
        # To which base is not said: what holds must hold for all of them.
        return sympy.log(argument) * sympy.Symbol("its_log_base")
    return getattr(sympy, names.get(name, name))(argument)


if __name__ == "__main__":
    main()
