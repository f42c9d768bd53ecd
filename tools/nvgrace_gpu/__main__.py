# SPDX-License-Identifier: GPL-2.0-only
"""Run the tool from this directory: PYTHONPATH=tools python3 -m nvgrace_gpu."""

from .cli import run

run()
