"""The auxiliary class head: its cross-entropy, and that the blocks before it cannot copy the class."""

import pytest
import torch

from jitflow.errors import ConfigError

FREE = {"net_settings": {"class_start": 1}}


def parts(module, labels, **further):
    g = torch.Generator().manual_seed(4)
    x1, noise = torch.rand(3, 3, 8, 8, generator=g) * 2 - 1, torch.randn(3, 3, 8, 8, generator=g)
    t = torch.tensor([0.2, 0.5, 0.9])
    x_t = t.view(-1, 1, 1, 1) * x1 + (1 - t.view(-1, 1, 1, 1)) * noise * module.noise_scale
    return module.loss_parts(x1, labels, t, noise, **further), (x_t, t, labels)


def test_cross_entropy_of_the_data_s_classes_by_hand(make_module):
    module = make_module(loss_terms={"class_head": {"weight": 0.3}}, **FREE)
    classes, dropped = torch.tensor([0, 1, 4]), torch.tensor([0, 5, 4])
    found, given = parts(module, dropped, classes=classes)
    _, inner = module.net(*given, features=("before_class_tokens",))
    head = module.loss_terms.class_head.head
    scores = inner["before_class_tokens"].mean(1) @ head.weight.mT + head.bias
    expected = scores.exp().sum(1).log() - scores[torch.arange(3), classes]
    torch.testing.assert_close(found["class_head"], 0.3 * expected)
    # It does not see which classes the network was told.
    torch.testing.assert_close(parts(module, classes, classes=classes)[0]["class_head"], found["class_head"])
    with pytest.raises(ConfigError, match="classes"):
        parts(module, dropped)


def test_it_recognises_classes_from_noisy_images_and_moves_the_network(make_module):
    module = make_module(loss_terms={"class_head": {"weight": 1.0}}, velocity_weight=0.0, **FREE)
    images = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(-1, 3, 8, 8)
    classes, t = torch.arange(5), torch.full((5,), 0.9)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    before = module.net.x_embedder.proj1.weight.detach().clone()
    losses = []
    for _ in range(60):
        noise = torch.randn(images.shape, generator=generator)
        loss = module.loss_parts(images, classes, t, noise, classes=classes)["class_head"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.2 and sum(losses[-5:]) / 5 < 0.4
    assert not torch.equal(module.net.x_embedder.proj1.weight, before)


def test_blocks_that_know_the_class_are_refused(make_module):
    for settings, message in (
        ({}, "net_settings.class_start to 1"),
        (FREE, "class_start to 3"),
        (FREE, "condition"),
    ):
        feature = {"class_start to 3": "block3", "condition": "condition"}.get(message, "before_class_tokens")
        with pytest.raises(ConfigError, match=message):
            make_module(loss_terms={"class_head": {"feature": feature}}, **settings)
