"""The HTTP app: everything a person or a tool asks of the router, and inference for any ASGI host.

`app` puts the endpoints together. `inference` submits jobs, `listing` answers for all backends at
once, `managing` speaks to one of them, `control` tells of the router itself, `openapi` describes
them all. An answer that another task has comes through a `pipe`; what a request holds meanwhile is
let go by its `exchange`, whichever way it ends.
"""
