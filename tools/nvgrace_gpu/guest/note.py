# SPDX-License-Identifier: GPL-2.0-only
"""Remarks on what is printed: comments for a shell, beside the output."""

import sys


def note(text):
    print("# " + text, file=sys.stderr)
