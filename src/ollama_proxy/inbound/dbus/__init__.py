"""The door on a message bus: one connection, six names, five objects.

Law: the XML files are the source. What a member takes and gives, whether a property may be set, what
introspection says: all of it is read from them once (`interface`), and held to by `tree`, which
answers calls. Each object's file says where its values come from, and nothing of the bus;
`telling` finds what has changed and how soon it is told; `door` does it.
"""
