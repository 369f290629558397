"""Doors: translation inward, and the answer's way out.

Law: engine, policy and the bus, never backends or sensors. Every door ends at `Dispatcher.submit` and begins
again at `engine.job.Caller`, so that they cannot differ in meaning.

`front` takes connections and looks at their first bytes: inference goes to `lane`, everything else
to Hypercorn (`guarded`) and the Quart app (`http`). `reading` turns headers and body into a job,
`answers` turns refusals and routing facts into bytes, `trust` says who may ask: all three serve
every HTTP door. `figures` and `heat` are what all doors tell of the router itself; `dbus` is the door
on a message bus.
"""
