# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# What the scripts share, by subject. Functions print what they find; messages go to standard
# error.
set -euo pipefail
shopt -s inherit_errexit
# make -s is for the verbs, not for the builds whose logs are counted.
unset MAKEFLAGS MFLAGS

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$TOP/scripts/lib/message.sh"
. "$TOP/scripts/lib/cache.sh"
. "$TOP/scripts/lib/debian.sh"
. "$TOP/scripts/lib/kernel.sh"
. "$TOP/scripts/lib/module.sh"
. "$TOP/scripts/lib/sign.sh"
. "$TOP/scripts/lib/jobs.sh"
