"""What an operator may set about rendering arrives where it counts."""

from __future__ import annotations

from fleet import settings
from fleet.render import renderer


def test_the_operators_bounds_are_taken_over() -> None:
    chosen = settings.RenderSettings(
        kustomize="/opt/kustomize", timeout=1.0, concurrent=3, input_limit=2048, output_limit=4096, objects_max=7
    )
    bounds = renderer.of(chosen)
    assert (bounds.kustomize.program, bounds.kustomize.deadline) == ("/opt/kustomize", 1.0)
    assert (bounds.kustomize.output_limit, bounds.limits.size, bounds.limits.objects) == (4096, 2048, 7)
    assert bounds.at_once == 3
