"""The scenario `real`: four real clusters, the control plane as a process of its own, a bare loop as the limit."""
