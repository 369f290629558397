"""The door for voice assistants: text that was spoken comes in as Wyoming events, answers go out.

Law: nobody is asked who they are, for the protocol has no way to; so the door is a loopback one, and a
connection whose first line is not an event hears so and is closed, a browser's among them.
"""
