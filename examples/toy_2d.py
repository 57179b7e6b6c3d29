"""Flow matching on points of the plane, where everything can be seen: ``python examples/toy_2d.py toy_2d``.

The path from noise x0 to data x1 is a straight line, x_t = t x1 + (1 - t) x0. Its velocity, averaged over all pairs
that pass through a point, carries the noise to the data. For a few data points that average is known exactly; for
many, a network learns it. Five pictures: exact velocity, training, sampling, guidance, orders of the solvers.
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from jitflow.core.guidance import guided_velocity
from jitflow.core.loss import mse_per_sample
from jitflow.core.path import expand_time, interpolate, velocity_from_data
from jitflow.core.solver import ODE_SOLVERS, integrate
from jitflow.core.times import TimeDistribution, time_grid

NUM_CLASSES = 3
COLOURS = ["#1f6fb4", "#e07b39", "#3a9a5b"]
CENTRES = torch.tensor([[math.cos(a), math.sin(a)] for a in (math.pi / 2, math.pi * 7 / 6, math.pi * 11 / 6)])


def draw_data(num: int) -> tuple[Tensor, Tensor]:
    """Three arms that start together, so that classes overlap: points ``(num, 2)`` and labels ``(num,)``."""
    label = torch.randint(NUM_CLASSES, (num,))
    along = 1.6 * torch.rand(num, 1)
    bend = torch.stack([-CENTRES[label, 1], CENTRES[label, 0]], 1) * 0.5 * along**2
    return along * CENTRES[label] + bend + 0.08 * torch.randn(num, 2), label


def exact_velocity(x: Tensor, t: Tensor) -> Tensor:
    """The velocity when the data are the three CENTRES: towards their average, weighted by how likely each is.

    Given x_t = x, centre c was the target with probability proportional to exp(-|x - t c|^2 / (2 (1 - t)^2)).
    """
    s = expand_time(t, x)
    centres = CENTRES.to(x)
    squared = (x[:, None] - s[..., None] * centres).square().sum(-1)
    share = torch.softmax(-squared / (2 * (1 - s).clamp_min(1e-3) ** 2), dim=1)
    return velocity_from_data(share @ centres, x, t, t_eps=1e-3)


class Net(nn.Module):
    """Predicts the data from a noisy point, its time and its class; class 3 means "any"."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.label = nn.Embedding(NUM_CLASSES + 1, 16)
        self.layers = nn.Sequential(
            nn.Linear(2 + 1 + 16, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Points ``(B, 2)``, times ``(B,)``, labels ``(B,)`` -> data ``(B, 2)``."""
        return self.layers(torch.cat([x, t[:, None], self.label(label)], dim=1))


def train(net: Net, num_steps: int) -> list[float]:
    """Regress the velocity of random lines; the mean over lines is what the network can learn. Returns losses."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    times = TimeDistribution(kind="uniform")
    losses = []
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / num_steps)
        x1, label = draw_data(512)
        x0, t = torch.randn_like(x1), times.sample(len(x1))
        x_t = interpolate(x0, x1, t)
        # Without its class now and then, so that guidance can compare.
        label = torch.where(torch.rand(len(label)) < 0.1, NUM_CLASSES, label)
        v_pred = velocity_from_data(net(x_t, t, label), x_t, t)
        loss = mse_per_sample(v_pred, velocity_from_data(x1, x_t, t)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def sample(net: Net, label: Tensor, scale: float = 1.0, num_steps: int = 40) -> Tensor:
    """Draw a point for each label, with guidance; shape ``(len(label), 2)``."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return guided_velocity(
            lambda x, t, y: velocity_from_data(net(x, t, y), x, t), x, t, label, null_label=NUM_CLASSES, scale=scale
        )

    return integrate(velocity, torch.randn(len(label), 2), time_grid(num_steps), solver="heun")


def solver_errors(steps: list[int], finest: int) -> dict[str, list[float]]:
    """Error of each solver on the exact velocity up to t = 0.9, against that of ``finest`` steps."""
    x0 = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def end(solver: str, num: int) -> Tensor:
        return integrate(exact_velocity, x0, 0.9 * time_grid(num).double(), solver=solver)

    truth = end("midpoint", finest)
    # Heun's last step is Euler's, as in sampling, where t = 1 must not be reached: one error of second order.
    return {s: [float((end(s, n) - truth).square().sum(1).mean().sqrt()) for n in steps] for s in ODE_SOLVERS}


def main() -> None:
    """Draw everything into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the pictures")
    parser.add_argument("--steps", type=int, default=2000, help="training steps")
    parser.add_argument("--finest", type=int, default=1000, help="steps that count as exact")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    figure = Figure(figsize=(15, 9), dpi=80, layout="constrained")
    axes = figure.subplots(2, 3)
    side = torch.linspace(-2, 2, 17, dtype=torch.float64)
    at = torch.cartesian_prod(side, side)
    for axis, t in zip(axes[0, :2], (0.2, 0.8), strict=True):
        axis.quiver(*at.T, *exact_velocity(at, torch.full((len(at),), t, dtype=torch.float64)).T, color="#8a8f98")
        axis.scatter(*CENTRES.T, c=COLOURS, s=60)
        axis.set_title(f"exact velocity to three points, t = {t}")
    steps = [5, 10, 20, 40, 80]
    for name, errors in solver_errors(steps, args.finest).items():
        axes[0, 2].loglog(steps, errors, "o-", label=name)
    axes[0, 2].set(title="error against steps: first and second order", xlabel="steps", ylabel="distance")
    axes[0, 2].set_xticks(steps, map(str, steps), minor=False)
    axes[0, 2].minorticks_off()
    axes[0, 2].legend(frameon=False)

    net = Net()
    losses = train(net, args.steps)
    axes[1, 0].plot(losses, color=COLOURS[0], linewidth=0.5)
    axes[1, 0].set(title="loss: it ends at the spread of the lines, not at 0", xlabel="step", yscale="log")
    label = torch.arange(900) % NUM_CLASSES
    for axis, scale in zip(axes[1, 1:], (1.0, 2.0), strict=True):
        axis.scatter(*draw_data(2000)[0].T, c="#d5d8dc", s=4)
        axis.scatter(*sample(net, label, scale).T, c=[COLOURS[y] for y in label.tolist()], s=6)
        axis.set_title("samples over data (grey)" if scale == 1 else f"guidance {scale:g}: classes apart, less varied")
    for axis in (*axes[0, :2], *axes[1, 1:]):
        axis.set(aspect="equal", xlim=(-2.3, 2.3), ylim=(-2.3, 2.3))
    figure.savefig(args.out / "toy_2d.png")


if __name__ == "__main__":
    main()
