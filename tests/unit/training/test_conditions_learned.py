"""What a small network learns of named conditions, in data whose mean is known for every combination of them."""

import pytest
import torch

from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.microdoppler.new_user import TABLE, learn_row
from jitflow.core.seeding import use_seeds

CONDITIONS = {"activity": {"names": ["walk", "run"]}, "speed": {"range": [0.0, 1.0]}}
NET = {"patch_size": 1, "hidden_size": 64, "depth": 2, "num_heads": 2}
# Orthogonal directions of length 2: four users (the last half the first and half the second), two activities, speed.
BASIS = 2 * torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0].T
USERS = torch.stack([BASIS[0], BASIS[1], BASIS[2], (BASIS[0] + BASIS[1]) / 2])
NUM_STEPS = 600


def build(num_users=3):
    settings = {"prediction": "data", "P_mean": -0.8, "P_std": 0.8, "cosine_weight": 0.0, "net_settings": NET}
    sampling = {"sampling_method": "heun", "num_sampling_steps": 20, "cfg_scale": 1.0}
    return UserConditionedDiT(num_users, "LightningDiT", (4, 2, 2), conditions=CONDITIONS, **settings, **sampling)


def draw(users):
    """Latents and labels of users, with any activity and speed; user 2 never runs."""
    activities = torch.where(users == 2, 0, torch.randint(2, users.shape))
    speeds = torch.rand(len(users))
    mean = USERS[users] + BASIS[3 + activities] + 2 * speeds[:, None] * BASIS[5]
    latents = (mean + 0.1 * torch.randn(mean.shape)).reshape(-1, 4, 2, 2)
    return latents, torch.stack([users.float(), activities.float(), speeds], dim=1)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    module = build().train()
    optimizer = torch.optim.AdamW(module.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=NUM_STEPS)
    for _ in range(NUM_STEPS):
        x1, labels = draw(torch.randint(3, (64,)))
        t = module.sample_timestep(64).flatten()
        loss = module.flow_loss(x1, module.drop_labels(labels), t, torch.randn_like(x1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return module.eval()


def place(module, label, num=64, **settings):
    """Mean of samples along users 0 to 2, walking, running and speed; 1 is what the data have."""
    with use_seeds(range(num)), module.sampling(**settings):
        x = module.generate(torch.tensor([label] * num, dtype=torch.float32), use_ema=False)
    return x.flatten(1).mean(0) @ BASIS[:6].T / 4


@pytest.mark.slow
def test_samples_have_the_user_the_activity_and_the_speed_that_are_asked_for(trained):
    for user, activity, speed in ((0, 0, 0.25), (1, 1, 0.75), (2, 0, 0.5), (0, 1, 0.5)):
        found = place(trained, [user, activity, speed])
        expected = torch.zeros(6)
        expected[user], expected[3 + activity], expected[5] = 1, 1, 2 * speed
        torch.testing.assert_close(found, expected, atol=0.25, rtol=0)
    # Any speed: the mean of all.
    assert float(place(trained, [0, 0, -1])[5]) == pytest.approx(1, abs=0.25)


@pytest.mark.slow
def test_guidance_by_the_activity_keeps_the_user(trained):
    found = place(trained, [0, 1, 0.5], cfg_scale=2.0, guide_by="activity")
    assert float(found[0]) == pytest.approx(1, abs=0.25) and float(found[4] - found[3]) > 0.9


@pytest.mark.slow
def test_a_new_user_between_two_known_ones_is_learned_from_eight_samples(trained):
    larger = build(4)
    weights = trained.state_dict()
    table = weights[TABLE]
    larger.load_state_dict({**weights, TABLE: torch.cat([table[:3], table[:3].mean(0, keepdim=True), table[3:]])})
    torch.manual_seed(3)
    before, after = learn_row(larger, *draw(torch.full((8,), 3)), num_steps=200, learning_rate=0.02)
    assert after < 0.7 * before
    found = place(larger, [3, 0, 0.5])
    assert found[:2].min() > 0.15 and float(found[:2].sum()) == pytest.approx(1, abs=0.3) and found[2].abs() < 0.25
