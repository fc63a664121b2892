"""The files that pages load: style, scripts, an icon. All are ours or vendored, none comes from elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_FOR_GOOD = "private, max-age=31536000, immutable"

VENDORED = {
    "uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
"""SHA-256 of what is of others: uPlot 1.6.32 (`dist/uPlot.iife.min.js`, `dist/uPlot.min.css`), MIT license."""


class Assets:
    """See the module. They are read once, when it is made."""

    def __init__(self) -> None:
        """Read them."""
        files = (path for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES)
        self._files = {path.name: path.read_bytes() for path in files}
        self._urls = {
            name: f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"
            for name, content in self._files.items()
        }

    def url(self, name: str) -> str:
        """Return the address of one; it changes with the content, so browsers may keep it for good."""
        return self._urls[name]

    @property
    def size_bytes(self) -> int:
        """Of all of them."""
        return sum(map(len, self._files.values()))

    async def answer(self, request: Request) -> Response:
        """Answer a request for one."""
        name = request.path_params["name"]
        content = self._files.get(name)
        if content is None:
            return Response("there is no such file\n", 404, media_type="text/plain")
        kind = _TYPES[Path(name).suffix]
        return Response(content, headers={"Content-Type": kind, "Cache-Control": _FOR_GOOD})
