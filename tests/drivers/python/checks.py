"""Runs checks, one after the other, and counts: a check is a function that raises when something is wrong."""

import sys
import traceback

_checks = []


def check(function):
    """Takes a function into the list."""
    _checks.append(function)
    return function


def run(call):
    """Runs them all; `call` runs one."""
    passed = failed = 0
    for function in _checks:
        try:
            call(function)
        except Exception:
            failed += 1
            print(f"FAILED  {function.__doc__}")
            traceback.print_exc(file=sys.stdout)
        else:
            passed += 1
            print(f"ok      {function.__doc__}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed != 0)


def raises(kind):
    """A context that wants this error, and keeps it as `.error`."""
    return _Raises(kind)


class _Raises:
    def __init__(self, kind):
        self.kind = kind
        self.error = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        assert error is not None, f"{self.kind.__name__} was expected"
        self.error = error
        return isinstance(error, self.kind)
