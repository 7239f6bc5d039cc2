"""Frozen values that travel through every layer; no behaviour beyond naming and no I/O."""
