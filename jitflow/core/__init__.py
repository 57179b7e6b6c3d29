"""The mathematics of flow matching: torch only, no I/O, no configuration.

Conventions everywhere below: time ``t`` runs from 0 (noise) to 1 (data) and has shape ``(B,)``; ``x0`` is
noise, ``x1`` data, ``x_t`` a point of the path between them, ``v_t`` its velocity.
"""
