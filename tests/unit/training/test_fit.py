"""Training with Lightning on tiny data in memory."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader, TensorDataset

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks.ema import EMACallback
from jitflow.checkpoint.load import load_module
from jitflow.data.batch import ImageBatch
from jitflow.errors import CheckpointError, ConfigError
from jitflow.training.optimizers import parameter_groups


class Record(pl.Callback):
    """Weights and gradient norms after every optimiser step."""

    def __init__(self):
        self.weights, self.norms, self.steps = [], [], []

    def on_train_start(self, trainer, pl_module):
        self.weights = [self.copy(pl_module)]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.steps):
            self.steps.append(batch_idx)
            self.weights.append(self.copy(pl_module))
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self.norms.append(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads])).item())

    @staticmethod
    def copy(module):
        return {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("epochs", [1, 2])
def test_averages_move_once_for_every_optimiser_step(make_module, make_trainer, loader, epochs):
    module = make_module(ema_decay1=0.9, ema_decay2=0.5, learning_rate=1e-2)
    record = Record()
    trainer = make_trainer(accumulate_grad_batches=4, max_epochs=epochs, callbacks=[EMACallback(0.9, 0.5), record])
    trainer.fit(module, loader)
    assert record.steps == [3, 7, 9] * epochs  # the last batch of an epoch always steps
    for decay, averages in ((0.9, module.ema_params1), (0.5, module.ema_params2)):
        replay = record.weights[0]
        for weights in record.weights[1:]:
            replay = {name: decay * replay[name] + (1 - decay) * weights[name] for name in weights}
        assert averages.keys() == replay.keys()
        for name, average in averages.items():
            torch.testing.assert_close(average, replay[name], rtol=1e-5, atol=1e-7, msg=name)
    first, last = (record.weights[i]["net.final_layer.linear.weight"] for i in (0, -1))
    assert (last - first).abs().max() > 1e-3


def test_averages_are_no_part_of_state_or_optimiser(make_module, make_trainer, loader):
    module = make_module()
    keys = list(module.state_dict())
    trainer = make_trainer(max_steps=1, callbacks=[EMACallback()])
    trainer.fit(module, loader)
    assert list(module.state_dict()) == keys
    inside = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert inside == {id(p) for p in module.parameters() if p.requires_grad}
    pointers = {a.data_ptr() for a in module.ema_params1.values()}
    assert not pointers & {p.data_ptr() for p in module.parameters()}
    assert not pointers & {a.data_ptr() for a in module.ema_params2.values()}


def test_two_callbacks_are_refused(make_module, make_trainer, loader):
    class Other(EMACallback):
        """Another class, so that Lightning itself does not object."""

    trainer = make_trainer(callbacks=[EMACallback(), Other()])
    with pytest.raises(ConfigError, match="two EMACallbacks"):
        trainer.fit(make_module(), loader)


def test_a_foreign_module_is_refused(make_trainer, loader):
    with pytest.raises(ConfigError, match="needs a jitflow module; got BoringModel"):
        make_trainer(callbacks=[EMACallback()]).fit(BoringModel(), loader)


def test_the_callback_s_decay_wins_with_one_warning(make_module, make_trainer, loader):
    module = make_module(learning_rate=1e-2)
    with pytest.warns(UserWarning, match="EMA decays differ") as caught:
        make_trainer(max_steps=2, callbacks=[EMACallback(0.0, 1.0)]).fit(module, loader)
    assert sum("EMA decays differ" in str(w.message) for w in caught) == 1
    for name, p in module.named_parameters():
        assert torch.equal(module.ema_params1[name], p.detach())
    assert not torch.equal(module.ema_params2["net.blocks.0.attn.qkv.weight"], module.net.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize("decays", [(1.1, 0.5), (0.5, -0.1)])
def test_decay_range(decays):
    with pytest.raises(ConfigError, match="decay"):
        EMACallback(*decays)


def test_averages_as_state_dict_and_as_weights(make_module, make_trainer, loader):
    module, callback = make_module(learning_rate=1e-2), EMACallback(0.9, 0.5)
    with pytest.raises(ConfigError, match="no EMA 1"):
        callback.get_ema_state_dict(module)
    with pytest.warns(UserWarning, match="differ"):
        make_trainer(max_steps=3, callbacks=[callback]).fit(module, loader)
    raw = copy.deepcopy(module.state_dict())
    for version, averages in ((1, module.ema_params1), (2, module.ema_params2)):
        state = callback.get_ema_state_dict(module, version)
        assert list(state) == list(raw)
        assert all(torch.equal(state[name], averages[name]) for name in averages)
        state["net.pos_embed"].zero_()
        assert averages["net.pos_embed"].any()
    callback.load_ema_to_model(module, ema_version=2)
    torch.testing.assert_close(dict(module.state_dict()), callback.get_ema_state_dict(module, 2), rtol=0, atol=0)
    assert not torch.equal(module.net.final_layer.linear.weight, raw["net.final_layer.linear.weight"])
    with pytest.raises(ConfigError, match="ema_version"):
        callback.load_ema_to_model(module, ema_version=3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value", None])
def test_gradient_clipping_really_clips(make_module, make_trainer, loader, precision, algorithm):
    free, clipped = Record(), Record()
    make_trainer(max_steps=3, precision=precision, callbacks=[free]).fit(make_module(), loader)
    module = make_module()
    make_trainer(
        max_steps=3,
        precision=precision,
        gradient_clip_val=0.001,
        gradient_clip_algorithm=algorithm,
        callbacks=[clipped],
    ).fit(module, loader)
    assert min(free.norms) > 0.1
    if algorithm == "value":
        assert max(p.grad.abs().max() for p in module.parameters() if p.grad is not None) == pytest.approx(0.001)
    else:
        assert clipped.norms == pytest.approx([0.001] * 3, rel=1e-3)


def test_bf16_mixed_trains_float32_weights(make_module, make_trainer, loader):
    dtypes, losses = set(), []

    class Watching(JiTLightningModule):
        def forward(self, x, t, y):
            out = super().forward(x, t, y)
            dtypes.add(out.dtype)
            return out

        def training_step(self, batch, batch_idx):
            outputs = super().training_step(batch, batch_idx)
            losses.append(outputs["loss"].detach())
            return outputs

    module = make_module(Watching)
    make_trainer(precision="bf16-mixed", callbacks=[EMACallback()]).fit(module, loader)
    assert dtypes == {torch.bfloat16}
    assert {loss.dtype for loss in losses} == {torch.float32}
    assert all(loss.isfinite() for loss in losses)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert {a.dtype for a in module.ema_params1.values()} == {torch.float32}


def test_learns(make_trainer):
    labels = torch.arange(40) % 5
    flat = (50 * labels.view(-1, 1, 1, 1)).expand(-1, 3, 8, 8).to(torch.uint8)
    loader = DataLoader(TensorDataset(flat, labels), batch_size=4)

    class Losses(pl.Callback):
        def __init__(self):
            self.values = []

        def on_train_epoch_end(self, trainer, pl_module):
            self.values.append(trainer.callback_metrics["val/loss"].item())

    losses = Losses()
    torch.manual_seed(0)
    module = JiTLightningModule("JiT-N/4", img_size=8, num_classes=5, learning_rate=2e-3)
    trainer = make_trainer(max_epochs=6, callbacks=[losses], num_sanity_val_steps=0)
    trainer.fit(module, loader, loader)
    assert losses.values[-1] < 0.5 * losses.values[0]


def test_logged_names(make_module, make_trainer, loader):
    logged = {}

    class Watching(JiTLightningModule):
        def log(self, name, value, **kwargs):
            logged.setdefault(name, []).append(value)
            super().log(name, value, **kwargs)

    trainer = make_trainer(callbacks=[EMACallback()])
    trainer.fit(make_module(Watching, learning_rate=3e-4), loader, loader)
    assert set(logged) == {"train/loss", "train/lr", "val/loss", "val/loss_ema"}
    assert len(logged["train/loss"]) == 10
    assert logged["train/lr"] == [3e-4]


def test_optimiser(make_module):
    module = make_module(learning_rate=2e-4, weight_decay=0.1)
    optimizer = module.configure_optimizers()
    no_decay, decay = optimizer.param_groups
    names = {id(p): name for name, p in module.named_parameters()}
    assert (no_decay["weight_decay"], decay["weight_decay"]) == (0.0, 0.1)
    assert {(g["lr"], g["betas"], g["eps"]) for g in optimizer.param_groups} == {(2e-4, (0.9, 0.95), 1e-8)}
    still = [names[id(p)] for p in no_decay["params"]]
    moving = [names[id(p)] for p in decay["params"]]
    assert all(name.endswith("bias") or "norm" in name for name in still)
    assert all(name.endswith(("weight", "in_context_posemb")) and "norm" not in name for name in moving)
    trainable = [name for name, p in module.named_parameters() if p.requires_grad]
    assert sorted(still + moving) == sorted(trainable)
    assert sorted(still, key=trainable.index) == still
    assert moving[0] == "net.in_context_posemb"
    assert [len(g["params"]) for g in parameter_groups(module, 0.0)] == [len(still), len(moving)]


def test_checkpoint_restores_weights_averages_and_settings(make_module, make_trainer, loader, tmp_path):
    given = {"cfg_scale": 2.5, "cfg_interval": (0.1, 0.9), "ema_decay1": 0.9, "ema_decay2": 0.5, "learning_rate": 1e-2}
    module = make_module(**given)
    trainer = make_trainer(max_steps=3, callbacks=[EMACallback(0.9, 0.5)])
    trainer.fit(module, loader)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["global_step"] == 3
    for loaded in (JiTLightningModule.load_from_checkpoint(path), load_module(path)):
        assert type(loaded) is JiTLightningModule
        torch.testing.assert_close(loaded.state_dict(), module.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(loaded.ema_params1, module.ema_params1, rtol=0, atol=0)
        torch.testing.assert_close(loaded.ema_params2, module.ema_params2, rtol=0, atol=0)
        assert dict(loaded.hparams) == dict(module.hparams)
        assert {name: getattr(loaded, name) for name in given} == given
        assert loaded.run_seed == module.run_seed
    first, second = (
        module.ema_params1["net.final_layer.linear.weight"],
        module.ema_params2["net.final_layer.linear.weight"],
    )
    assert (first - second).abs().max() > 1e-4


@pytest.mark.parametrize("accumulate", [1, 4])
def test_averages_go_on_after_a_resume(make_module, make_trainer, loader, tmp_path, accumulate):
    def trainer_of(max_epochs):
        callbacks = [EMACallback(0.9, 0.5)]
        return make_trainer(max_epochs=max_epochs, accumulate_grad_batches=accumulate, callbacks=callbacks)

    path = tmp_path / "last.ckpt"
    decays = {"ema_decay1": 0.9, "ema_decay2": 0.5, "learning_rate": 1e-2}
    whole = make_module(**decays)
    trainer_of(2).fit(whole, loader)
    half = make_module(**decays)
    half.run_seed = whole.run_seed
    trainer = trainer_of(1)
    trainer.fit(half, loader)
    trainer.save_checkpoint(path)
    resumed = make_module(**decays)
    trainer_of(2).fit(resumed, loader, ckpt_path=path)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.ema_params1, whole.ema_params1, rtol=0, atol=0)
    torch.testing.assert_close(resumed.ema_params2, whole.ema_params2, rtol=0, atol=0)


def test_averages_that_do_not_fit_are_refused(make_module):
    module = make_module()
    averages = {name: p.detach() for name, p in module.named_parameters()}
    del averages["net.final_layer.linear.bias"]
    with pytest.raises(CheckpointError, match=r"model_ema1 .* 1 .*final_layer\.linear"):
        module.on_load_checkpoint({"model_ema1": averages})
    averages["net.final_layer.linear.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match="model_ema2"):
        module.on_load_checkpoint({"model_ema2": averages})


def test_checkpoint_of_another_size_lists_what_does_not_fit(make_module, tmp_path):
    module = make_module()
    state = module.state_dict()
    del state["net.pos_embed"]
    state["net.foreign"] = torch.zeros(1)
    state["net.final_layer.linear.bias"] = torch.zeros(3)
    torch.save({"state_dict": state, "hyper_parameters": dict(module.hparams)}, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError) as caught:
        load_module(tmp_path / "odd.ckpt")
    message = str(caught.value)
    assert "\n" not in message
    assert "1 missing: net.pos_embed" in message
    assert "1 unknown: net.foreign" in message
    assert "1 of another shape: net.final_layer.linear.bias (3,) instead of (48,)" in message


def test_foreign_checkpoint(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match=r"odd\.ckpt is .* holds weights"):
        load_module(tmp_path / "odd.ckpt")


def batch_of(index, epoch=0):
    index = torch.tensor(index)
    return ImageBatch(torch.zeros(len(index), 3, 8, 8, dtype=torch.uint8), index % 5, index, epoch)


def drops(module, index, epoch=0, batch_idx=1):
    batch = batch_of(index, epoch)
    module.on_train_batch_start(batch, batch_idx)
    labels = module.drop_labels(batch.labels)
    module.on_train_batch_end(None, batch, batch_idx)
    assert ((labels == batch.labels) | (labels == 5)).all()
    return dict(zip(index, (labels == 5).tolist(), strict=True))


@pytest.mark.parametrize(("prob", "low", "high"), [(0.0, 0, 0), (0.1, 0.09, 0.11), (1.0, 1, 1)])
@pytest.mark.parametrize("indexed", [False, True])
def test_share_of_dropped_labels(make_module, prob, low, high, indexed):
    module = make_module(label_drop_prob=prob)
    labels = torch.arange(20_000) % 5
    if indexed:
        module.run_seed = 3
        module.on_train_batch_start(batch_of(range(20_000)), 1)
    dropped = module.drop_labels(labels)
    assert low <= (dropped == 5).float().mean().item() <= high
    assert torch.equal(dropped[dropped != 5], labels[dropped != 5])
    assert dropped.dtype == torch.int64


def test_drops_depend_on_seed_epoch_and_index_only(make_module):
    module = make_module(label_drop_prob=0.5)
    module.run_seed = 3
    order = list(range(100))
    together = drops(module, order)
    backwards = drops(module, order[::-1], batch_idx=7)
    assert backwards == together
    assert drops(module, order[40:60], batch_idx=2) == {i: together[i] for i in order[40:60]}
    assert drops(module, order, epoch=1) != together
    module.run_seed = 4
    assert drops(module, order) != together


def test_randomness_of_a_batch_depends_on_seed_epoch_and_batch_only(make_module):
    module = make_module()
    module.run_seed = 3

    def draw(batch_idx, epoch=0):
        module.on_train_batch_start(batch_of([0], epoch), batch_idx)
        return torch.randn(3).tolist()

    first = draw(5)
    assert draw(6) != first
    assert draw(5, epoch=1) != first
    torch.manual_seed(99)
    assert draw(5) == first


def test_validation_is_the_same_whenever_and_in_whatever_batches(make_module, monkeypatch):
    module = make_module()
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=generator)

    def loss(index):
        index = torch.tensor(index)
        return module.validation_step(ImageBatch(images[index], index % 5, index, 0), 0).item()

    whole = loss([0, 1, 2, 3, 4, 5])
    assert loss([5, 3, 1, 0, 2, 4]) == pytest.approx(whole, rel=1e-5)
    assert (loss([0, 1]) + loss([2, 3]) + loss([4, 5])) / 3 == pytest.approx(whole, rel=1e-5)
    # Plain pairs are numbered as they come.
    pair = module.validation_step([images[4:], torch.arange(4, 6) % 5], 2).item()
    assert pair == pytest.approx(loss([4, 5]), rel=1e-6)


def test_data_with_more_classes_is_refused_before_training(make_module, make_trainer, loader):
    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            raise AssertionError("too late")

        def get_dataset_info(self):
            return {"num_classes": 6}

    with pytest.raises(ConfigError, match="6 classes but the model only 5"):
        make_trainer().fit(make_module(), datamodule=Data())
