"""What makes the browser's Back leave a page at the first press?

Streamlit pushes a history entry for every name that the server writes into the address. Only
another page is worth one; the bare address leads to the runs and would catch the reader.
"""

from __future__ import annotations

from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

__all__ = ["OneEntryAPage"]

SCRIPT = b"""<script>
{
  const push = history.pushState.bind(history);
  history.pushState = (state, unused, url) => {
    const here = location.pathname, there = new URL(url, location.href).pathname;
    const write = there === here || here === "/" ? history.replaceState.bind(history) : push;
    write(state, unused, url);
  };
}
</script>"""
ABOUT_THE_FILE = ("accept-encoding", "if-none-match", "if-modified-since")
"""Request headers that are answered with something else than the plain page."""


class OneEntryAPage(BaseHTTPMiddleware):
    """Puts the script into the head of the page, where it runs before Streamlit does.

    An element of the page would come too late: the browser fetches the code that draws it when the
    first addresses have been written.
    """

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Answer with the page and the script in it; anything but a page goes through as it is."""
        if "text/html" not in request.headers.get("accept", ""):
            return await call_next(request)
        request.scope["headers"] = [
            (name, value)
            for name, value in request.scope["headers"]
            if name.decode("latin-1") not in ABOUT_THE_FILE
        ]
        response = await call_next(request)
        if not response.headers.get("content-type", "").startswith("text/html"):
            return response
        page = b"".join([part async for part in response.body_iterator])  # type: ignore[attr-defined]
        return HTMLResponse(
            page.replace(b"<head>", b"<head>" + SCRIPT, 1),
            response.status_code,
            {"cache-control": "no-cache"},
        )
