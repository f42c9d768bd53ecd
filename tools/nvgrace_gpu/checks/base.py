# SPDX-License-Identifier: GPL-2.0-only
"""What a check returns, and how a module lists its checks."""

import collections

# status is "ok", "fix", "risk" (no guest is stopped, but the host can be hurt) or "cannot tell".
# cure is commands to paste and Advice, better is what else is worth doing where all is well.
Result = collections.namedtuple("Result", "status text cure better")


def ok(text, *better):
    return Result("ok", text, (), better)


def fix(text, *cure):
    return Result("fix", text, cure, ())


def risk(text, *cure):
    return Result("risk", text, cure, ())


def cannot_tell(text):
    return Result("cannot tell", text, (), ())


def registry():
    """A list of (name, function) for a module of checks, and the decorator that adds to it."""
    checks = []

    def listed(name):
        def add(function):
            checks.append((name, function))
            return function
        return add
    return checks, listed
