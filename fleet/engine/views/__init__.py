"""What people and programs see: the JSON of the REST API and of the CLI, one file per noun.

Each struct is one JSON shape and each builder a plain function from the engine's values to it. Times are RFC 3339 UTC
with milliseconds, durations seconds, digests `sha256:…`. Fields may be added, never renamed.
"""
