"""A server that somebody set up, driven from outside and held to a reference.

`export` writes the model that a server is to load, `reference` says what that model answers,
`framing`, `wire` and `stream` speak to the server, `load` drives it, `gate` judges its answers,
`server` looks at what it says of itself, `session` puts them in order, `verdict` says what came.
"""
