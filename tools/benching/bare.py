"""The ordinary way to write a proxy on this stack, in thirty lines: Quart-trio, httpx, Hypercorn.

`bare.py BACKEND PORT`. It is what `tools/bench --peers bare` measures ours against.
"""

import sys
from collections.abc import AsyncIterator

import httpx
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response, request
from quart_trio import QuartTrio

app = QuartTrio(__name__)
client = httpx.AsyncClient(base_url=sys.argv[1], timeout=None, trust_env=False)  # noqa: S113 - streams


@app.route("/<path:path>", methods=["GET", "POST"])
async def pass_through(path: str) -> Response:
    """Send it on as it came, and answer as it is answered."""
    asked = client.build_request(
        request.method, f"/{path}", content=await request.get_data(), headers=list(request.headers)
    )
    answer = await client.send(asked, stream=True)

    async def pieces() -> AsyncIterator[bytes]:
        async for piece in answer.aiter_raw():
            yield piece
        await answer.aclose()

    return Response(pieces(), answer.status_code, dict(answer.headers))


if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[2]}"]
    app.config["RESPONSE_TIMEOUT"] = None
    trio.run(serve, app, config)
