"""Prompts and gaps of text as colour: what a network sees while training and sampling."""

from __future__ import annotations

import pytest
import torch
from text_modules import MAPPINGS, begin_batch, make, shaken, text_ids

from jitflow.core.condition import Condition


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_prompt_masks_cover_the_first_tokens(mapping):
    module = make(mapping=mapping)
    num_tokens = module.colours.num_tokens
    lengths = torch.tensor([0, 1, 6, num_tokens])
    mask = module.prompt_mask(lengths)
    assert mask.shape == (4, 1, 16, 16) and mask.dtype == torch.bool
    by_token = module.colours.gather(mask.float()).bool()
    assert torch.equal(by_token, torch.arange(num_tokens) < lengths[:, None])
    # Whole tokens only.
    assert torch.equal(module.colours.spread(by_token.float()).bool(), mask)


def test_prompts_in_training_are_named_by_seed_epoch_and_index():
    module = make(prompt_prob=0.3, infill_prob=0.0, img_size=64)
    ids = text_ids(module, 200)
    x1 = module.colours.encode(ids)
    module.run_seed = 5

    def lengths(index, epoch):
        begin_batch(module, index, epoch)
        drawn = torch.rand(len(index))
        condition, t = module.training_condition(x1[: len(index)], drawn, None)
        assert t is drawn or torch.equal(t, drawn)
        assert torch.equal(condition.known, x1[: len(index)])
        return module.colours.gather(condition.mask.float()).sum(dim=1)

    first = lengths(torch.arange(200), 0)
    assert torch.equal(first[[7, 3]], lengths(torch.tensor([7, 3]), 0))
    assert not torch.equal(first, lengths(torch.arange(200), 1))
    assert 0.2 < float((first > 0).float().mean()) < 0.4
    assert first.max() < module.colours.num_tokens and first.max() > 150
    module.on_train_batch_end(None, None, 1)
    condition, _ = module.training_condition(x1, torch.rand(200), None)
    drawn = module.colours.gather(condition.mask.float()).sum(dim=1)
    assert 0.15 < float((drawn > 0).float().mean()) < 0.45
    t = torch.rand(200)
    assert make(prompt_prob=0.0, infill_prob=0.0).training_condition(x1, t, None) == (Condition(), t)


def test_texts_with_gaps_show_most_tokens_and_next_to_nothing_of_the_others():
    module = make(prompt_prob=0.0, infill_prob=0.5, img_size=64)
    x1 = module.colours.encode(text_ids(module, 200))
    module.run_seed = 5

    def draw(index, epoch):
        begin_batch(module, index, epoch)
        condition, t = module.training_condition(x1[: len(index)], torch.full((len(index),), 0.4), None)
        return module.colours.gather(condition.mask.float()), t

    shown, t = draw(torch.arange(200), 0)
    with_gaps = t < 0.4
    assert 0.4 < float(with_gaps.float().mean()) < 0.6
    assert torch.allclose(t[with_gaps], torch.tensor(0.4 * 0.02)) and bool((shown[~with_gaps] == 0).all())
    assert abs(float(shown[with_gaps].mean()) - 0.8) < 0.01
    # No two texts have the same gaps, and every place has some.
    assert len(shown[with_gaps].unique(dim=0)) == int(with_gaps.sum())
    assert bool((shown[with_gaps].mean(dim=0) < 1).all())
    again, t_again = draw(torch.tensor([7, 3]), 0)
    assert torch.equal(again, shown[[7, 3]]) and torch.equal(t_again, t[[7, 3]])
    assert not torch.equal(draw(torch.arange(200), 1)[0], shown)


def test_a_prompt_stays_clean_while_sampling():
    module = shaken(make(num_sampling_steps=5, churn=0.5))
    known = module.colours.encode(text_ids(module, 1))
    mask = module.prompt_mask(torch.tensor([6]))
    states, hints = [], []
    forward = module.forward

    def spy(x, t, y, hint=None):
        states.append(x.clone())
        hints.append(hint.clone())
        return forward(x, t, y, hint)

    module.forward = spy
    asked = Condition(label=torch.zeros(3, dtype=torch.int64), known=known, mask=mask)
    x = module.generate_condition(asked, use_ema=False)
    for image in [x, *states, *hints]:
        assert torch.equal(image.masked_select(mask), known.expand_as(image).masked_select(mask))
    assert torch.equal(module.colours.tokens(x)[:, :6], module.colours.tokens(known)[:, :6].expand(3, -1))
