"""A new user of a trained model: one row of the user table is learned, and nothing else moves."""

import pytest
import torch

from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.microdoppler.new_user import TABLE, learn_row

NET = {"patch_size": 1, "hidden_size": 32, "depth": 2, "num_heads": 2}


@pytest.fixture
def module():
    torch.manual_seed(0)
    found = UserConditionedDiT(4, "LightningDiT", (4, 2, 2), net_settings=NET, cosine_weight=0.0)
    with torch.no_grad():
        for p in found.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return found


def learn(module, num_steps=60, **settings):
    latents = torch.randn(5, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    return learn_row(module, latents, torch.full((5,), 3), num_steps=num_steps, learning_rate=0.05, **settings)


def test_the_row_lowers_the_loss_and_no_other_weight_moves(module):
    old = {name: value.clone() for name, value in module.state_dict().items()}
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    calls = []
    before, after = learn(module, on_progress=lambda done, total: calls.append((done, total)))
    assert after < before - 1e-3 and calls[-1] == (60, 60)
    new = module.state_dict()
    assert [name for name in old if not torch.equal(old[name], new[name])] == [TABLE]
    same = (old[TABLE] == new[TABLE]).all(dim=1)
    assert same.tolist() == [True, True, True, False, True]
    assert [name for name, p in module.named_parameters() if p.requires_grad] == trained


def test_a_seed_repeats_the_row_and_leaves_the_generators_alone(module):
    old = module.state_dict()[TABLE].clone()
    rows = []
    for seed in (0, 0, 1):
        with torch.no_grad():
            module.get_parameter(TABLE).copy_(old)
        state = torch.get_rng_state()
        learn(module, num_steps=4, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        rows.append(module.get_parameter(TABLE)[3].detach().clone())
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
