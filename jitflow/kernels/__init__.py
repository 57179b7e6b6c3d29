"""Kernels for CUDA: one pass over memory for what surrounds the matrix products of a Transformer block.

Each module holds one operation as a ``torch.library`` operator with its gradient. The plain formula of each is in
``layers/``: it is what runs on other devices, and the answer of the tests. Modules here import Triton, so that only
:func:`jitflow.layers.fusion.fuses` decides whether they are imported.
"""
