"""A module with named conditions: dropping, guidance, requests, checkpoints and refusals."""

import logging

import pytest
import torch

import jitflow
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.callbacks.utilisation import training_flops
from jitflow.checkpoint.convert import convert
from jitflow.checkpoint.load import init_from
from jitflow.codec.linear import LinearCodec
from jitflow.core.combinations import Combinations
from jitflow.core.condition_table import ConditionTable
from jitflow.core.seeding import use_seeds
from jitflow.data.batch import ImageBatch
from jitflow.errors import ConfigError
from jitflow.model import Model
from jitflow.run.memory import estimate_memory

CONDITIONS = {"activity": {"names": ["walk", "run"]}, "speed": {"range": [0.5, 2.5]}}
NET = {"patch_size": 1, "hidden_size": 32, "depth": 1, "num_heads": 2}
NULL = [3, 2, -1]
LABELS = torch.tensor([[0, 1, 0.25], [2, 0, 0.5]])
# User 1 walks and runs, user 4 only walks; user 7 has no known speed.
SEEN = [[0, 0, [0.0, 0.5]], [0, 1, [0.5, 1.0]], [1, 0, [0.0, 0.5]], [2, 0, None]]


def tiny(**settings):
    torch.manual_seed(0)
    given = {"num_users": 3, "model_name": "LightningDiT", "latent_shape": (4, 2, 2), "net_settings": NET}
    module = UserConditionedDiT(**{**given, "conditions": CONDITIONS, "sampling_method": "euler", **settings})
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return module


def info(folder):
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    codec = LinearCodec.fit([images], num_components=4, patch_size=4)
    codec.export(folder / "linear_codec.safetensors")
    return {
        **{"num_classes": 3, "user_ids": [1, 4, 7], "latent_shape": (4, 2, 2), "mean": [0.0] * 4, "std": [1.0] * 4},
        "codec": {"id": codec.id, "checksum": codec.checksum, "img_size": [8, 8]},
        "linear_codec": folder / "linear_codec.safetensors",
        "conditions": CONDITIONS,
        "combinations": SEEN,
    }


@pytest.fixture
def module(tmp_path):
    module = tiny()
    data = info(tmp_path)
    module.check_data(data)
    module.check_conditions(data)
    module.adopt_data(data)
    module.adopt_conditions(data)
    return module


def saved(module, path):
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


def test_one_thing_is_dropped_by_itself_or_all_together():
    module = tiny(label_drop_prob=0.25, condition_drop_prob=0.5)
    labels = LABELS[:1].expand(5, -1)
    together = torch.tensor([0.1, 0.3, 0.3, 0.3, 0.3])
    alone = torch.tensor([[0.9] * 3, [0.4, 0.9, 0.9], [0.9, 0.4, 0.9], [0.9, 0.9, 0.4], [0.4, 0.9, 0.4]])
    kept = [0, 1, 0.25]
    expected = [NULL, [3, 1, 0.25], [0, 2, 0.25], [0, 1, -1], [3, 1, -1]]
    assert module.drop(labels, together, alone).tolist() == expected
    assert module.drop(labels, torch.ones(5), torch.ones(5, 3)).tolist() == [kept] * 5


def test_conditions_are_dropped_independently_of_each_other():
    module, num = tiny(label_drop_prob=0.2, condition_drop_prob=0.3), 20_000
    torch.manual_seed(1)
    dropped = module.drop_labels(LABELS[:1].expand(num, -1)) == torch.tensor(NULL)
    for combination in range(8):
        wanted = torch.tensor([bool(combination & bit) for bit in (1, 2, 4)])
        share = (dropped == wanted).all(dim=1).double().mean()
        expected = 0.8 * 0.3 ** int(wanted.sum()) * 0.7 ** int((~wanted).sum()) + 0.2 * float(wanted.all())
        assert abs(share - expected) < 5 * (expected * (1 - expected) / num) ** 0.5


def test_in_a_batch_of_training_drops_depend_on_the_sample_alone():
    module = tiny(label_drop_prob=0.3, condition_drop_prob=0.3)
    module.run_seed = 5
    labels, index = LABELS[:1].expand(64, -1), torch.arange(64)

    def dropped(order, epoch=0):
        batch = ImageBatch(torch.zeros(64, 4, 2, 2), labels, index[order], epoch)
        module.on_train_batch_start(batch, 1)
        found = module.drop_labels(labels)
        module.on_train_batch_end(None, batch, 1)
        return found

    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    first = dropped(torch.arange(64))
    assert torch.equal(dropped(order), first[order])
    assert not torch.equal(dropped(torch.arange(64), epoch=1), first)


@pytest.mark.parametrize(
    ("guide_by", "null"),
    [
        ("all", [[3, 2, -1], [3, 2, -1]]),
        ("activity", [[0, 2, 0.25], [2, 2, 0.5]]),
        ("user, speed", [[3, 1, -1], [3, 0, -1]]),
        ("user,activity,speed", [[3, 2, -1], [3, 2, -1]]),
    ],
)
def test_guidance_leaves_out_all_or_what_is_named(guide_by, null):
    module = tiny(num_sampling_steps=1)

    def step(labels, **settings):
        with use_seeds([1, 2]), module.sampling(**{"cfg_scale": 1.0, **settings}):
            return module.generate(labels, use_ema=False)

    with_all, without = step(LABELS), step(torch.tensor(null))
    guided = step(LABELS, cfg_scale=3.0, guide_by=guide_by)
    torch.testing.assert_close(guided, without + 3 * (with_all - without), atol=1e-4, rtol=1e-4)


def test_a_class_alone_means_any_condition():
    module = tiny(num_sampling_steps=2)
    with use_seeds([1, 2]):
        plain = module.generate(torch.tensor([0, 2]), use_ema=False)
    with use_seeds([1, 2]):
        named = module.generate(torch.tensor([[0, 2, -1], [2, 2, -1]]), use_ema=False)
    assert torch.equal(plain, named)


def test_a_checkpoint_keeps_table_and_combinations(module, tmp_path):
    source = saved(module, tmp_path / "a.ckpt")
    convert(source, tmp_path / "a.safetensors", ema=0)
    drawn = []
    for path in (source, tmp_path / "a.safetensors"):
        model = jitflow.load(path, device="cpu")
        assert model.module.conditions == ConditionTable.of_record(CONDITIONS)
        assert model.module.combinations.to_record() == SEEN
        asked = {"users": [4], "conditions": {"activity": "walk", "speed": 1.0}}
        drawn.append(model.sample(**asked, steps=2, guidance=2.0, guide_by="activity"))
    assert torch.equal(drawn[0].pixels, drawn[1].pixels)
    assert drawn[0].conditions == [{"activity": "walk", "speed": 1.0}]
    assert drawn[0].settings["guide_by"] == "activity"


def test_all_combinations_of_several_values_are_drawn(module):
    asked = Model(module).ask(conditions="user=1,4,activity=walk,run,speed=1.0", num=2)
    label = asked.condition.label
    assert label[::2].tolist() == [[0, 0, 0.25], [0, 1, 0.25], [1, 0, 0.25], [1, 1, 0.25]] and len(asked) == 8
    assert asked.labels == [0, 0, 0, 0, 1, 1, 1, 1] and asked.names[0] == "user01"
    assert asked.captions[0] == "user 1, walk, speed 1"
    same = Model(module).ask(users="1,4", conditions={"activity": ["walk", "run"], "speed": 1}, num=2)
    assert torch.equal(same.condition.label, label)
    part = asked.part(slice(2, 4))
    assert part.conditions == [{"activity": "run", "speed": 1.0}] * 2
    anything = Model(module).ask(conditions="user=any,activity=all")
    assert anything.condition.label.tolist() == [[3, 0, -1], [3, 1, -1]]
    assert Model(module).ask(conditions="speed=1").labels == [0, 1, 2]


def test_an_unseen_combination_is_said(module, caplog):
    caplog.set_level(logging.WARNING, logger="jitflow")
    asked = Model(module).ask(users=[1, 4], conditions="activity=run,speed=2")
    assert asked.captions == ["user 1, run, speed 2", "user 4, run, speed 2 (unseen)"]
    assert list(asked.record["unseen"]) == ["user 4, run, speed 2"]
    assert "no training sample has this combination" in caplog.text


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"conditions": "activity=swim"}, "unknown activity 'swim'"),
        ({"conditions": "gait=run"}, "unknown condition 'gait'"),
        ({"conditions": "speed=9"}, "speed must be a number from 0.5"),
        ({"conditions": "run"}, "must look like activity=run"),
        ({"conditions": "user=5"}, "no user 5"),
        ({"conditions": "user=1", "users": [1]}, "which another argument does"),
        ({"prompt": "run"}, "conditions"),
    ],
)
def test_a_wrong_request_is_one_line(module, asked, named):
    with pytest.raises(ConfigError, match=named) as caught:
        Model(module).ask(**asked)
    assert "\n" not in str(caught.value)


def test_a_model_of_users_alone_knows_only_the_user(tmp_path):
    module = tiny(conditions=None)
    module.adopt_data(info(tmp_path))
    assert Model(module).ask(conditions="user=4").labels == [1]
    with pytest.raises(ConfigError, match="unknown condition 'activity'"):
        Model(module).ask(conditions="activity=run")
    with pytest.raises(ConfigError, match=r"leave model\.conditions null"):
        module.check_conditions(info(tmp_path))


@pytest.mark.parametrize(
    ("settings", "guide_by", "named"),
    [
        ({}, "gait", "unknown condition in guide_by"),
        ({"condition_drop_prob": 0.0}, "activity", "condition_drop_prob 0 never does"),
        ({"label_drop_prob": 0.0}, "all", "label_drop_prob 0 never trains"),
    ],
)
def test_guidance_by_what_was_never_dropped_is_refused(settings, guide_by, named):
    with pytest.raises(ConfigError, match=named):
        Model(tiny(**settings)).check_settings(guidance=2.0, guide_by=guide_by)


def test_without_drops_every_condition_must_be_named(module):
    module.label_drop_prob = module.condition_drop_prob = 0.0
    with pytest.raises(ConfigError, match="name speed"):
        Model(module).ask(users=[1], conditions="activity=run")
    assert len(Model(module).ask(users=[1], conditions="activity=run,speed=2")) == 1


def test_a_checkpoint_of_users_alone_has_no_new_entries(tmp_path):
    module = tiny(conditions=None)
    module.adopt_data(info(tmp_path))
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    assert "combinations" not in checkpoint["jitflow"]
    assert not any("condition" in name for name in module.state_dict())


def test_combinations_of_training_data_are_those_of_its_labels():
    table = ConditionTable.of_record(CONDITIONS)
    labels = torch.tensor([[0, 0, 0.0], [0, 0, 0.5], [0, 1, 0.5], [0, 1, 1.0], [1, 0, 0.0], [1, 0, 0.5], [2, 0, -1]])
    assert Combinations.of_labels(labels, table).to_record() == SEEN


def test_training_from_weights_keeps_the_conditions_that_are_the_same(tmp_path):
    sources = {
        name: saved(tiny(conditions=conditions), tmp_path / f"{name}.ckpt")
        for name, conditions in (("users", None), ("both", CONDITIONS))
    }
    wider = {"activity": CONDITIONS["activity"], "speed": {"range": [0.0, 9.0]}, "load": {"names": ["none", "bag"]}}
    for name, kept in (("users", set()), ("both", {"activity"})):
        module = tiny(conditions=wider)
        initial = {n: v.clone() for n, v in module.state_dict().items()}
        summary = init_from(module, sources[name], ema=0)
        loaded = torch.load(sources[name], weights_only=True)["state_dict"]
        for n, value in module.state_dict().items():
            is_kept = not n.startswith("net.condition_embedder.") or n.split(".")[2] in {f"{k}_embedder" for k in kept}
            assert torch.equal(value, loaded[n] if is_kept else initial[n]), n
        assert ("speed, load" if kept else "activity, speed, load") in summary


def test_memory_and_operations_are_estimated():
    plain, module = tiny(conditions=None), tiny()
    assert estimate_memory(module, precision="32-true").peak(4) > estimate_memory(plain, precision="32-true").peak(4)
    assert training_flops(module) > training_flops(plain)
