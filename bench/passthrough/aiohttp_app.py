"""Passing bytes on with aiohttp, and nothing else. Run by a Python that has aiohttp and uvloop, outside the project.

python aiohttp_app.py PORT UPSTREAM
"""

import asyncio
import sys

import uvloop
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web

DROPPED = {"connection", "transfer-encoding", "keep-alive", "host", "content-length"}


def kept(headers):
    return [(name, value) for name, value in headers.items() if name.lower() not in DROPPED]


async def application(upstream: str) -> web.Application:
    session = ClientSession(
        connector=TCPConnector(limit=0), timeout=ClientTimeout(None), cookie_jar=DummyCookieJar(), auto_decompress=False
    )

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with session.request(
            request.method, upstream + request.path_qs, headers=kept(request.headers), data=body
        ) as answer:
            if answer.content_length is not None:
                return web.Response(status=answer.status, headers=kept(answer.headers), body=await answer.read())
            response = web.StreamResponse(status=answer.status, headers=kept(answer.headers))
            await response.prepare(request)
            async for data in answer.content.iter_any():
                await response.write(data)
            await response.write_eof()
            return response

    app = web.Application(client_max_size=32 << 20)
    app.router.add_route("*", "/{rest:.*}", handle)
    return app


def main() -> None:
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    web.run_app(application(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
