# SPDX-License-Identifier: GPL-2.0-only
"""The version, which dkms.conf has for the driver, its packages and this tool.

In the tree dkms.conf is here as a link; scripts/tool packs what it leads to.
"""

import pkgutil
import re


def version():
    text = pkgutil.get_data(__package__, "dkms.conf").decode()
    return re.search(r'^PACKAGE_VERSION="(.*)"$', text, re.M).group(1)
