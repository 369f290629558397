"""The decision log: what every choice of a backend went by, on disk, and choices made again from it.

`form` is what a line holds, `writing` makes one of a question, `reading` a question of one. `log`
brings lines to disk beside the traffic, into the rotating files of `file`. `replay` decides again,
`outcome` compares, `report` says what another mode or configuration would have changed, `command` is
the command.

Each line stands for itself: it repeats what the owner wrote down of each backend, some 300 bytes. Lines
that refer to others were the alternative: a third smaller, and with a damaged line, or a rotated file,
many others would have been lost.
"""
