"""The parts that a plain run measures, one function to a table."""

from __future__ import annotations

from . import building, patching, sampling

PARTS = {
    "nodes": building.loaders,
    "stack": building.stack,
    "understanding": building.understanding,
    "analysis": patching.analysis,
    "applying": patching.applying,
    "sampling": sampling.sampling,
    "schedule": sampling.schedule,
    "variation": sampling.variation,
    "memory": patching.memory,
}
