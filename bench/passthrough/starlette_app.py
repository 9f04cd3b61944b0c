"""Passing bytes on with Starlette and httpx on uvicorn, and nothing else. Run by a Python that has them.

python starlette_app.py PORT UPSTREAM
"""

import sys
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

DROPPED = {"connection", "transfer-encoding", "keep-alive", "host"}


def kept(headers):
    return {name: value for name, value in headers.items() if name.lower() not in DROPPED}


def application(upstream: str) -> Starlette:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx.AsyncClient(base_url=upstream, limits=limits, timeout=None)

    async def handle(request: Request) -> StreamingResponse:
        outgoing = client.build_request(
            request.method, request.url.path, headers=kept(request.headers), content=await request.body()
        )
        answer = await client.send(outgoing, stream=True)
        return StreamingResponse(
            answer.aiter_raw(), answer.status_code, kept(answer.headers), background=BackgroundTask(answer.aclose)
        )

    @asynccontextmanager
    async def lifespan(app):
        async with client:
            yield

    return Starlette(routes=[Route("/{rest:path}", handle, methods=["GET", "POST"])], lifespan=lifespan)


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
