"""The WebSocket door: many requests on one socket, each answered token by token.

It stands beside the lane, on the same port, and not in the Quart app: a frame that passes through
Hypercorn and Quart is handed from task to task three times on its way out.
"""
