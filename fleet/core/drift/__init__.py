"""Drift decisions: the verdict on a watch event, its confirmation and explanation, and what a heal must do first.

    event → verdict.judge → Suspect → (one dry-run apply) → compare.confirm → explain.explain → heal → verdict.remember

All functions are pure; the shell around them is `engine.observer` and `engine.reconcile` (drift.md 1.1).
"""
