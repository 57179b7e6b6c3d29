"""A network that computes in float64, so that two ways to one image can be told apart from rounding.

In float32 the sums of two such ways differ by 1e-5 to 7e-5, by processor more or less; in float64 inside the network
they round to the same float32 samples, and a test can ask for far less than any true difference.
"""

import torch


def in_double(module):
    """Let a module's network compute in float64; what the solver keeps stays in float32."""

    def widen(net, args, kwargs):
        return tuple(arg.double() if torch.is_floating_point(arg) else arg for arg in args), kwargs

    module.net.double()
    module.net.register_forward_pre_hook(widen, with_kwargs=True)
    return module
