"""The command line: what a person types, over HTTP to the server, plus the offline commands of the `local_*` modules.

`main` joins the commands; `command` gives each one the global options, a `Session` and the exit codes; `client`
speaks HTTP; `output` prints; the `show_*` modules turn the API's JSON into text. Nothing heavy is imported before a
command needs it.
"""
