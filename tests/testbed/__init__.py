"""Real parts on loopback for tests, the demo and the benchmark.

``build`` makes the binaries once per machine, ``cluster`` starts Kubernetes control planes from them, ``git`` and
``jaeger`` the other servers. Nothing here depends on pytest except ``fixtures``; nothing depends on the product.
Everything that is started is a child of one launcher process (``reaper``) and ends with it.
"""
