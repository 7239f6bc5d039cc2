"""The control plane over HTTP: queries, commands and the event stream of `engine.service`, guarded by one token.

`server` listens; `endpoint` describes a route once, for the router and for the OpenAPI document alike; one file per
noun holds its endpoints; `problem` turns errors into application/problem+json.
"""
