"""Loss terms with parameters of their own: trained, averaged, saved, left out of exports, and drawn for."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

import jitflow
from jitflow.callbacks.ema import EMACallback
from jitflow.checkpoint.convert import convert
from jitflow.checkpoint.formats import read_state
from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import load_checkpoint
from jitflow.training.averages import averaged_parameters
from jitflow.training.terms import FrozenEncoder, LossModule


class Projector(LossModule):
    """Reads tokens through a projector and a frozen encoder, at random tokens."""

    name = "projector"
    features = ("block2",)

    def __init__(self, weight=0.5, averaged=False, checksum="0" * 64):
        super().__init__(weight)
        self.is_averaged = averaged
        self.checksum = checksum

    def build(self, module):
        width = module.net.pos_embed.shape[-1]
        self.head = nn.Linear(width, 3)
        self.encoder = FrozenEncoder(nn.Sequential(nn.Linear(3, 3), nn.Dropout()), self.checksum)

    def draw(self, x1, generator):
        return {"keep": torch.rand(len(x1), 4, generator=generator) < 0.5}

    def forward(self, state):
        target = self.encoder(state.x1.unflatten(2, (2, 4)).unflatten(4, (2, 4)).mean((3, 5)).flatten(2).mT)
        error = (self.head(state.features["block2"].float()) - target).square().mean(-1)
        return (error * state.draws[self.name]["keep"]).mean(-1)


@pytest.fixture
def with_term(make_module):
    """A module with the term, and the weights that it has without it."""

    def make(**settings):
        module = make_module()
        module.add_loss_term(Projector(**settings))
        return module

    return make


def train(module, make_trainer, loader, ckpt_path=None, **settings):
    torch.manual_seed(5)
    trainer = make_trainer(callbacks=[EMACallback()], **settings)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return trainer


def test_a_term_without_weight_changes_no_bit_of_the_network(make_module, with_term, make_trainer, loader):
    plain, module = make_module(), with_term(weight=0.0)
    for m in (plain, module):
        train(m, make_trainer, loader, max_steps=3)
    before = plain.state_dict()
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())
    own = set(module.state_dict()) - set(before)
    assert own == {"loss_terms.projector.head.weight", "loss_terms.projector.head.bias"}
    assert averaged_parameters(module).keys() == module.ema_params1.keys() == plain.ema_params1.keys()


def test_its_parameters_are_trained_and_its_encoder_is_not(with_term, make_trainer, loader):
    module = with_term()
    before = copy.deepcopy(module.loss_terms)
    train(module, make_trainer, loader, max_steps=2)
    (term,), (old,) = module.loss_terms, before
    assert not torch.equal(term.head.weight, old.head.weight)
    assert torch.equal(term.encoder.net[0].weight, old.encoder.net[0].weight)
    assert module.training and not term.encoder.net[1].training


def test_averages_are_kept_for_a_term_that_asks_for_them_but_not_for_an_encoder(with_term, make_trainer, loader):
    module = with_term(averaged=True)
    train(module, make_trainer, loader, max_steps=2)
    own = {name for name in module.ema_params1 if name.startswith("loss_terms.")}
    assert own == {"loss_terms.projector.head.weight", "loss_terms.projector.head.bias"}
    weight = module.loss_terms.projector.head.weight.clone()
    with module.ema_weights():
        assert not torch.equal(module.loss_terms.projector.head.weight, weight)
    assert torch.equal(module.loss_terms.projector.head.weight, weight)


def test_resuming_equals_never_having_stopped(make_module, make_trainer, loader, tmp_path):
    """With Muon; tests/integration/test_add_a_method.py resumes AdamW, in the middle of an epoch."""

    def fresh():
        module = make_module(optimizer="muon")
        module.add_loss_term(Projector(averaged=True))
        return module

    whole, first, second = fresh(), fresh(), fresh()
    epochs = {"limit_train_batches": 3}
    train(whole, make_trainer, loader, max_epochs=2, **epochs)
    train(first, make_trainer, loader, **epochs).save_checkpoint(tmp_path / "a.ckpt")
    trainer = train(second, make_trainer, loader, tmp_path / "a.ckpt", max_epochs=2, **epochs)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())
    assert all(torch.equal(value, second.ema_params1[name]) for name, value in whole.ema_params1.items())
    names = [name for group in trainer.optimizers[0].state_dict()["param_groups"] for name in group["param_names"]]
    assert "loss_terms.projector.head.weight" in names
    assert not [name for name in load_checkpoint(tmp_path / "a.ckpt")["state_dict"] if "encoder" in name]


def test_another_encoder_is_refused_when_training_resumes(with_term, make_trainer, loader, tmp_path):
    train(with_term(), make_trainer, loader, max_steps=1).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"projector .*encoder"):
        train(with_term(checksum="1" * 64), make_trainer, loader, tmp_path / "a.ckpt", max_steps=2)


def test_exports_have_neither_the_term_nor_its_moments(make_module, with_term, make_trainer, loader, tmp_path):
    module = with_term()
    trainer = train(module, make_trainer, loader, max_steps=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    for target in ("b.safetensors", "b.pth"):
        convert(tmp_path / "a.ckpt", tmp_path / target)
        state = read_state(tmp_path / target)
        assert not [name for name in state.weights if "loss_terms" in name]
        loaded = jitflow.load(tmp_path / target).module
        assert loaded.state_dict().keys() == make_module().state_dict().keys()
        assert "loss_terms" not in state.extra
    # The network's moments are those of the training.
    release, own = read_state(tmp_path / "b.pth").optimizer, trainer.optimizers[0]
    moments = {id(p): moment["exp_avg"] for p, moment in own.state.items()}
    parameters = [p for group in own.param_groups for p in group["params"]]
    network = [p for p in parameters if not any(p is q for q in module.loss_terms.parameters())]
    assert len(release["state"]) == len(network)
    assert all(torch.equal(moments[id(p)], release["state"][i]["exp_avg"]) for i, p in enumerate(network))
    # A checkpoint of a training is loaded for sampling without its terms too.
    assert jitflow.load(tmp_path / "a.ckpt").module.state_dict().keys() == make_module().state_dict().keys()


def test_damaged_settings_of_terms_are_named(make_module, make_trainer, loader, tmp_path):
    train(make_module(), make_trainer, loader, limit_train_batches=1).save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    checkpoint["hyper_parameters"]["loss_terms"] = ["internal_guidance"]
    torch.save(checkpoint, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match=r"b\.ckpt"):
        jitflow.load(tmp_path / "b.ckpt")


def test_validation_draws_alike_and_training_by_the_batch(with_term, make_trainer, loader):
    module = with_term()
    module.run_seed = 3
    seen = []
    (term,) = module.loss_terms
    drawn = term.draw
    term.draw = lambda x1, generator: seen.append(drawn(x1, generator)["keep"]) or {"keep": seen[-1]}
    trainer = make_trainer(limit_train_batches=3, limit_val_batches=2, max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(module, loader, loader)
    training, validation = [seen[i] for i in (0, 1, 2, 5, 6, 7)], [seen[i] for i in (3, 4, 8, 9)]
    assert len({tuple(keep.flatten().tolist()) for keep in training}) == 6
    assert torch.equal(validation[0], validation[2]) and torch.equal(validation[1], validation[3])
    assert not torch.equal(validation[0], validation[1])
    # By (seed, epoch, batch, rank), whatever else was drawn before.
    again = module.loss_terms.draw(torch.zeros(4, 3, 8, 8), 3, 1, 2, 0)["projector"]["keep"]
    assert torch.equal(again, training[5])


def test_terms_draw_apart_from_each_other(with_term):
    class Other(Projector):
        name = "other"

    module, alone = with_term(), with_term()
    module.add_loss_term(Other())
    x1 = torch.zeros(8, 3, 8, 8)
    both, one = (m.loss_terms.draw(x1, 3, 0, 1) for m in (module, alone))
    assert torch.equal(both["projector"]["keep"], one["projector"]["keep"])
    assert not torch.equal(both["projector"]["keep"], both["other"]["keep"])


def test_an_encoder_stays_in_evaluation_mode_while_the_model_trains(with_term):
    encoder = with_term().eval().train().loss_terms.projector.encoder
    assert not any(part.training for part in encoder.modules())


def test_what_a_term_must_not_be_is_named(make_module):
    module = make_module()
    for name, message in (("a.b", "one word"), ("velocity", "already"), ("projector", "already")):
        term = Projector()
        term.name = name
        if name == "projector":
            module.add_loss_term(Projector())
        with pytest.raises(ConfigError, match=message):
            module.add_loss_term(term)
    term = Projector()
    term.name, term.features = "other", ("block99",)
    with pytest.raises(ConfigError, match="block99"):
        module.add_loss_term(term)
    with pytest.raises(ConfigError, match="weight"):
        Projector(weight=-1.0)


def test_settings_name_terms_and_import_nothing(make_module):
    module = make_module(loss_terms={"cosine": {"weight": 0.3}, f"{__name__}.Projector": {"weight": 0.2}})
    assert [(term.name, term.weight) for term in module.loss_terms] == [("cosine", 0.3), ("projector", 0.2)]
    for name in ("cosin", "this.Thing", "wave.Wave_read", f"{__name__}.jitflow"):
        before = set(sys.modules)
        with pytest.raises(ConfigError, match=name):
            make_module(loss_terms={name: {}})
        assert set(sys.modules) == before
    with pytest.raises(ConfigError, match=r"loss_terms\.cosine"):
        make_module(loss_terms={"cosine": {"height": 3}})
    with pytest.raises(ConfigError, match=r"loss_terms\.cosine"):
        make_module(loss_terms={"cosine": 3})
