from __future__ import annotations

import re
from pathlib import Path

from ckptd.access import roles
from ckptd.access.roles import ROLES

PAGE = Path(__file__).parents[3] / "docs" / "security.md"
ROW = re.compile(r"^\| `(\w+)` \| (.*) \|$", re.M)


def test_the_page_tells_the_roles_as_they_are():
    told = ROW.findall(PAGE.read_text("utf-8").partition("## Roles")[2].partition("\n## ")[0])
    assert told == ROW.findall(roles.__doc__)
    assert [name for name, _ in told] == list(ROLES)
