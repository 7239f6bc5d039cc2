"""What `fleet demo` is made of.

`testbed` lends the clusters, `repository` is the Git side, `stage` holds everything that runs, `shell` runs the
commands that are shown, `follow` watches the event log, `tour` walks through, `narrator` prints.
"""
