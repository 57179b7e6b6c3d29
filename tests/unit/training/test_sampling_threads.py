"""Threads that sample from one model get the images that each would get alone, and leave nothing behind."""

import copy
import pickle
import threading

import pytest
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.core.seeding import use_seeds
from jitflow.errors import ConfigError
from jitflow.model import Model
from jitflow.training.sampling_call import running_call

WAIT_SEC = 60


def give_averages(module):
    """Two averages, far from the weights."""
    for factor, averages in ((0.5, module.ema_params1), (1.5, module.ema_params2)):
        averages.update({name: factor * p.detach() for name, p in module.named_parameters()})
    return module


def together(*works):
    """Run functions in threads of their own; return what they return, or raise what one raised."""
    results, errors = [None] * len(works), []

    def run(i):
        try:
            results[i] = works[i]()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SEC)
        assert not thread.is_alive(), "the threads wait for each other"
    if errors:
        raise errors[0]
    return results


def in_step(num_threads):
    """A listener that lets all threads take each step at the same time."""
    barrier = threading.Barrier(num_threads)
    return lambda *_: barrier.wait(WAIT_SEC)


def test_calls_with_the_same_weights_go_on_side_by_side(make_module):
    """Both are in the middle of their ways at once, with settings of their own."""
    model = Model(give_averages(make_module()))
    asked = [
        {"labels": [0, 1, 2], "seeds": 0, "guidance": 3.0, "interval": (0.1, 1.0), "solver": "heun"},
        {"labels": [4, 3], "seeds": 50, "guidance": 1.5, "solver": "euler", "time_shift": 2.0},
    ]
    alone = [model.sample(**words, steps=4).pixels for words in asked]
    assert alone[0].float().std() > 1 and not torch.equal(alone[0][:2], alone[1])
    wait = in_step(2)
    drawn = together(*(lambda w=w: model.sample(**w, steps=4, on_progress=wait).pixels for w in asked))
    for ours, expected in zip(drawn, alone, strict=True):
        assert torch.equal(ours, expected)


def test_a_call_with_other_weights_waits_for_its_turn(make_module):
    model = Model(give_averages(make_module()))
    asked = [
        {"labels": [0, 1], "seeds": 3, "guidance": 2.0, "ema": 1, "steps": 3},
        {"labels": [2, 3], "seeds": 9, "guidance": 4.0, "ema": 0, "steps": 5},
        {"labels": [4], "seeds": 3, "ema": 2, "steps": 2},
    ]
    alone = [model.sample(**words).pixels for words in asked]
    under_way, others_came, steps = threading.Event(), threading.Event(), []

    def first():
        def on_progress(done, total):
            under_way.set()
            # The others ask in the middle of this call, and have time to do harm.
            others_came.wait(WAIT_SEC)
            steps.append("first")

        return model.sample(**asked[0], on_progress=on_progress).pixels

    def later(words):
        under_way.wait(WAIT_SEC)
        threading.Timer(0.2, others_came.set).start()
        return model.sample(**words, on_progress=lambda done, total: steps.append("later")).pixels

    drawn = together(first, lambda: later(asked[1]), lambda: later(asked[2]))
    for ours, expected in zip(drawn, alone, strict=True):
        assert torch.equal(ours, expected)
    assert steps == ["first"] * 3 + ["later"] * 7


def test_many_threads_with_every_kind_of_weights(make_module):
    model = Model(give_averages(make_module()))
    weights = {name: (p.data_ptr(), p.detach().clone()) for name, p in model.module.named_parameters()}
    asked = [{"labels": [i], "seeds": i, "guidance": 1 + i, "ema": i % 3, "steps": 2 + i % 4} for i in range(6)]
    alone = [model.sample(**words).pixels for words in asked]
    drawn = together(*(lambda w=w: [model.sample(**w).pixels for _ in range(4)] for w in asked))
    for ours, expected in zip(drawn, alone, strict=True):
        assert all(torch.equal(pixels, expected) for pixels in ours)
    for name, p in model.module.named_parameters():
        pointer, value = weights[name]
        assert p.data_ptr() == pointer and torch.equal(p, value)


def test_threads_inside_an_average_that_ask_for_another_do_not_wait_for_each_other(make_module):
    module = give_averages(make_module())
    labels = torch.tensor([1, 2])

    def draw(meet=lambda: None):
        with module.ema_weights(2), use_seeds([5, 6]):
            meet()
            inner = module.generate(labels, use_ema=True)
            return inner, module.generate(labels, use_ema=False)

    inner, outer = draw()
    assert not torch.equal(inner, outer)
    barrier = threading.Barrier(2)
    for found in together(*[lambda: draw(lambda: barrier.wait(WAIT_SEC))] * 2):
        assert torch.equal(found[0], inner) and torch.equal(found[1], outer)


def test_the_mode_is_given_back_by_the_last_thread(make_module):
    """The call that begins first ends first; the other must not be sampled with dropout."""
    module = make_module(attn_dropout=0.5, proj_dropout=0.5)
    module.net.blocks[0].eval()
    modes = [part.training for part in module.modules()]
    model = Model(module)
    expected = model.sample([1], 7, steps=6, ema=0).pixels
    wait, first_done = threading.Barrier(2), threading.Event()

    def short():
        model.sample([0], 0, steps=1, ema=0, on_progress=lambda *_: wait.wait(WAIT_SEC))
        first_done.set()

    def long():
        def on_progress(done, total):
            if done == 1:
                wait.wait(WAIT_SEC)
                first_done.wait(WAIT_SEC)

        return model.sample([1], 7, steps=6, ema=0, on_progress=on_progress).pixels

    assert torch.equal(together(short, long)[1], expected)
    assert [part.training for part in module.modules()] == modes


def test_the_global_generator_is_given_back_by_the_last_thread(make_module):
    model, before = Model(make_module()), torch.get_rng_state()
    wait = in_step(2)
    together(*(lambda s=s: model.sample([1], s, ema=0, steps=3, on_progress=wait) for s in (1, 2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_override_sees_what_its_own_caller_asked_for(make_module):
    seen = []

    class Reading(JiTLightningModule):
        def _euler_step(self, z, t, t_next, labels):
            seen.append((threading.get_ident(), self.cfg_scale, self.num_sampling_steps))
            return super()._euler_step(z, t, t_next, labels)

    module = make_module(Reading, sampling_method="euler")
    module.cfg_scale = 2.9
    model, wait = Model(module), in_step(2)

    def draw(guidance):
        model.sample([0], 0, guidance=guidance, steps=3, ema=0, on_progress=wait)
        return threading.get_ident()

    for ident, guidance in zip(together(lambda: draw(3.0), lambda: draw(5.0)), (3.0, 5.0), strict=True):
        assert [row[1:] for row in seen if row[0] == ident] == [(guidance, 3)] * 3
    seen.clear()
    module.generate(torch.tensor([0]), use_ema=False)
    assert {row[1:] for row in seen} == {(2.9, 4)}


def test_a_setting_written_inside_a_call_is_that_call_s(make_module):
    class Own(JiTLightningModule):
        def generate(self, labels, use_ema=True):
            self.cfg_scale = 4.0
            return super().generate(labels, use_ema)

    module, plain = Model(make_module(Own)), Model(make_module())
    drawn = module.sample([0, 1], 0, guidance=2.0, ema=0).pixels
    assert torch.equal(drawn, plain.sample([0, 1], 0, guidance=4.0, ema=0).pixels)
    assert module.module.cfg_scale == 1.0


def test_blocks_of_settings_nest_and_end(make_module):
    module = make_module()
    with module.sampling(cfg_scale=2.0), module.sampling(num_sampling_steps=7) as call:
        assert (module.cfg_scale, module.num_sampling_steps) == (2.0, 7)
        assert running_call(module) is call and running_call(make_module()) is None
    with pytest.raises(ZeroDivisionError), module.sampling(cfg_scale=2.0):
        raise ZeroDivisionError
    assert (module.cfg_scale, module.num_sampling_steps) == (1.0, 4) and running_call(module) is None
    with pytest.raises(ConfigError, match="guidance"), module.sampling(cfg_scale=float("nan")):
        pass
    with pytest.raises(ConfigError, match="temperature"), module.sampling(temperature=0.5):
        pass


def test_a_setting_that_a_class_defines_cannot_be_given_silently(make_module):
    class Fixed(JiTLightningModule):
        cfg_scale = 2.0

    with pytest.raises(ConfigError, match="Fixed defines cfg_scale"):
        Model(make_module(Fixed)).sample([0], 0, guidance=3.0, ema=0)


def test_weights_that_do_not_fit_leave_the_others_alone(make_module):
    module = give_averages(make_module())
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    short = dict(list(module.ema_params1.items())[:-1])
    with module.ema_weights(2):
        with pytest.raises(ConfigError, match="lack"), module.other_weights(short):
            pass
        for name, p in module.named_parameters():
            assert torch.equal(p, module.ema_params2[name])
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name])
    together(lambda: Model(module).sample([0], 0, steps=1))


def test_a_copy_of_a_module_shares_nothing_with_it(make_module):
    module = give_averages(make_module())
    expected = Model(module).sample([0, 1], 3, steps=2).pixels
    with module.ema_weights(2):
        copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
        # Its own weights there are what the parameters hold here.
        for other in copies:
            assert torch.equal(Model(other).sample([0, 1], 3, steps=2).pixels, expected)
            assert all(torch.equal(p, module.ema_params2[name]) for name, p in other.named_parameters())
