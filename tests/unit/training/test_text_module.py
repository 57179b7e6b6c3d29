"""The module of text as colour: what its output means, what counts in its loss, and what a checkpoint of it holds."""

from __future__ import annotations

import json

import lightning.pytorch as pl
import pytest
import torch
from text_modules import MAPPINGS, TINY, WORDS, begin_batch, make, shaken, text_ids
from torch import nn

from jitflow.apps.text.code_posterior import CodePosterior
from jitflow.apps.text.module import TextLightningModule, read_tokenizer
from jitflow.apps.text.network import load_pretrained_jit
from jitflow.apps.text.tokenizer import train_bpe
from jitflow.checkpoint.load import load_module
from jitflow.core.condition import Condition
from jitflow.core.path import data_from_velocity, interpolate, velocity_from_data
from jitflow.core.seeding import use_seeds
from jitflow.data.batch import ImageBatch
from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import load_checkpoint


class Oracle(nn.Module):
    """Answers with one image, in the way its caller reads answers."""

    prediction = None

    def __init__(self, answer, takes_hints=False):
        super().__init__()
        self.answer = nn.Parameter(answer, requires_grad=False)
        self.self_conditioning = takes_hints
        self.velocity = False

    def forward(self, x, t, y, hint=None):
        if not self.velocity:
            return self.answer.expand_as(x)
        return velocity_from_data(self.answer.expand_as(x), x, t, t_eps=1e-2)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("predict_clean", [True, False])
@pytest.mark.parametrize(("solver", "churn"), [("euler", 0.0), ("euler", 0.7), ("heun", 0.0), ("midpoint", 0.3)])
def test_an_oracle_through_the_sampler_gives_the_exact_text(mapping, predict_clean, solver, churn):
    module = make(mapping=mapping, predict_clean=predict_clean, num_sampling_steps=20, sampling_method=solver)
    module.churn = churn
    text = "Grüße, 你好! " * 40
    ids = (WORDS.encode(text) + [WORDS.end_id] * module.colours.num_tokens)[: module.colours.num_tokens]
    wanted = torch.tensor([ids, ids[::-1]])
    oracle = Oracle(module.colours.encode(wanted))
    oracle.velocity = not predict_clean
    module.net = oracle
    with use_seeds([3, 4]):
        x = module.generate(torch.zeros(2, dtype=torch.int64), use_ema=False)
    assert torch.equal(module.colours.tokens(x), wanted)


def test_the_decoder_follows_from_mapping_and_prediction():
    assert isinstance(make().posterior, CodePosterior)
    assert make(decoder="direct").posterior is None
    for settings in ({"mapping": "lattice"}, {"mapping": "base256"}, {"predict_clean": False}):
        assert make(**settings).posterior is None
        with pytest.raises(ConfigError, match="decoder expected needs"):
            make(decoder="expected", **settings)
    with pytest.raises(ConfigError, match="unknown decoder"):
        make(decoder="expectd")


def test_expected_velocity_points_at_the_average_codeword():
    module = make(noise_scale=2.0)
    x1 = module.colours.encode(text_ids(module))
    t = torch.tensor([0.1, 0.4, 0.9])
    x_t = interpolate(2 * torch.randn_like(x1), x1, t)
    output = torch.randn_like(x1)
    logits = CodePosterior(module.colours, noise_scale=2.0).logits(output, x_t, t)
    codes = module.colours.codes()
    mean = (logits.softmax(-1) @ codes)[0, 0]
    pointed_at = data_from_velocity(module.velocity_of(output, x_t, t), x_t, t, t_eps=module.t_eps)
    torch.testing.assert_close(pointed_at[0, :, :4, :4].flatten(), mean, atol=1e-4, rtol=1e-4)
    module.temperature = 0.25
    sharp = data_from_velocity(module.velocity_of(output, x_t, t), x_t, t, t_eps=module.t_eps)
    mean = ((logits * 4).softmax(-1) @ codes)[0, 0]
    torch.testing.assert_close(sharp[0, :, :4, :4].flatten(), mean, atol=1e-4, rtol=1e-4)


def test_an_untrained_model_knows_what_each_place_tells():
    """With the output at 0 the cross-entropy is that of Bayes with a uniform prior: certain late, log V early."""
    module = make()
    torch.nn.init.zeros_(module.net.final_layer.linear.weight)
    ids = text_ids(module, 2)
    x1 = module.colours.encode(ids)
    t = torch.tensor([0.0, 0.6])
    x_t = interpolate(torch.randn_like(x1), x1, t)
    nats = module.token_cross_entropy(module(x_t, t, torch.zeros(2, dtype=torch.int64)).float(), x_t, t, ids)
    torch.testing.assert_close(nats[0], torch.full((16,), 258.0).log())
    assert float(nats[1].max()) < 1e-3


@pytest.mark.parametrize("predict_clean", [True, False])
def test_direct_codewords_are_judged_by_the_predicted_image(predict_clean):
    module = make(decoder="direct", predict_clean=predict_clean)
    ids = text_ids(module, 2)
    x1, t = module.colours.encode(ids), torch.tensor([0.2, 0.7])
    x_t = interpolate(torch.randn_like(x1), x1, t)
    image = 0.1 * x1
    output = image if predict_clean else velocity_from_data(image, x_t, t, t_eps=module.t_eps)
    nats = module.token_cross_entropy(output, x_t, t, ids)
    codes = module.colours.codes()
    wanted = -(0.1 * codes[ids] @ codes.T).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    torch.testing.assert_close(nats, wanted, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("predict_clean", [True, False])
def test_digits_are_judged_at_their_time_and_noise(predict_clean):
    from jitflow.apps.text.code_posterior import digit_cross_entropy

    module = make(mapping="lattice", img_size=4, predict_clean=predict_clean, noise_scale=3.0)
    ids = text_ids(module, 2)
    x1, t = module.colours.encode(ids), torch.tensor([0.3, 0.8])
    x_t = interpolate(torch.randn_like(x1), x1, t)
    image = 0.5 * x1
    output = image if predict_clean else velocity_from_data(image, x_t, t, t_eps=module.t_eps)
    wanted = digit_cross_entropy(module.colours, image, t, ids, noise_scale=3.0)
    torch.testing.assert_close(module.token_cross_entropy(output, x_t, t, ids), wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_padding_counts_as_little_as_it_is_told(mapping):
    module = make(mapping=mapping, pad_weight=0.1, cross_entropy_weight=3.0, velocity_weight=0.5)
    ids = text_ids(module, 1, pad_from=5)
    weight = module.loss_weight(ids)
    assert weight.shape == (1, 1, 16, 16)
    by_token = module.colours.gather(weight)
    assert by_token[0, :6].tolist() == [1.0] * 6  # the end token is text
    assert torch.equal(by_token[0, 6:], torch.full_like(by_token[0, 6:], 0.1))
    assert module.loss_weight(None) is None
    x1, t = module.colours.encode(ids), torch.tensor([0.3])
    noise = torch.randn_like(x1)
    x_t = interpolate(noise, x1, t)
    output = torch.randn_like(x1)
    module.forward = lambda x, s, y, hint=None: output
    parts = module.loss_parts(x1, torch.zeros(1, dtype=torch.int64), t, noise, data=ids, estimate=False)
    assert list(parts) == ["velocity", "cross_entropy"]
    nats = module.token_cross_entropy(output, x_t, t, ids)
    wanted = 3 * (nats * by_token).sum() / by_token.sum()
    torch.testing.assert_close(parts["cross_entropy"][0], wanted)
    v_pred = module.velocity_of(output, x_t, t)
    squared = ((v_pred - (x1 - noise)).square() * weight).sum() / (3 * weight.sum())
    torch.testing.assert_close(parts["velocity"][0], 0.5 * squared, atol=1e-4, rtol=1e-4)


def test_known_tokens_do_not_count():
    module = make()
    ids = text_ids(module, 2)
    x1, t, labels = module.colours.encode(ids), torch.tensor([0.2, 0.2]), torch.zeros(2, dtype=torch.int64)
    noise = torch.randn_like(x1)
    mask = module.prompt_mask(torch.tensor([0, 10]))
    output = torch.randn_like(x1)
    module.forward = lambda x, s, y, hint=None: output
    parts = module.loss_parts(x1, labels, t, noise, data=ids, condition=Condition(known=x1, mask=mask), estimate=False)
    x_t = interpolate(noise, x1, t)
    nats = module.token_cross_entropy(output, x_t, t, ids)
    torch.testing.assert_close(parts["cross_entropy"], torch.stack([nats[0].mean(), nats[1, 10:].mean()]))


def test_cross_entropy_can_be_left_out_but_not_everything():
    module = make(cross_entropy_weight=0.0)
    x1 = module.colours.encode(text_ids(module, 1))
    parts = module.loss_parts(x1, torch.zeros(1, dtype=torch.int64), torch.tensor([0.5]), torch.randn_like(x1))
    assert list(parts) == ["velocity"]
    for wrong in (
        {"cross_entropy_weight": 0.0, "velocity_weight": 0.0},
        {"cross_entropy_weight": -1.0},
        {"velocity_weight": float("nan")},
        {"pad_weight": 1.5},
        {"prompt_prob": -0.1},
        {"infill_prob": 1.1},
        {"mapping": "codebok"},
    ):
        with pytest.raises(ConfigError):
            make(**wrong)


@pytest.mark.parametrize("self_conditioning", [True, False])
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_training_step_reaches_every_weight(mapping, self_conditioning):
    module = shaken(make(mapping=mapping, self_conditioning=self_conditioning, self_conditioning_prob=1.0))
    assert module.takes_hints == self_conditioning
    module.run_seed = 0
    begin_batch(module, torch.arange(4))
    ids = text_ids(module, 4)
    module.log = module.log_dict = lambda *args, **kwargs: None
    loss = module.training_step(ImageBatch(ids, torch.zeros(4, dtype=torch.int64), torch.arange(4)), 0)["loss"]
    loss.backward()
    assert loss.isfinite()
    silent = [n for n, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not silent


def test_sampling_can_start_on_the_way():
    module = shaken(make(num_sampling_steps=10))
    labels = torch.zeros(2, dtype=torch.int64)
    reached = {}
    with use_seeds([1, 2]), module.watch_sampling(lambda done, n, t, x: reached.update({round(t, 6): x.clone()})):
        whole = module.generate(labels, use_ema=False)
    # Without hints from the steps before, the rest of the way is the same.
    plain = shaken(make(num_sampling_steps=10, self_conditioning=False))
    with use_seeds([1, 2]), plain.watch_sampling(lambda done, n, t, x: reached.update({round(t, 6): x.clone()})):
        whole = plain.generate(labels, use_ema=False)
    seen = []
    with plain.watch_sampling(lambda done, n, t, x: seen.append((done, n, round(t, 6)))):
        rest = plain.generate_condition(Condition(label=labels), use_ema=False, start=(reached[0.4], 0.4))
    assert torch.equal(rest, whole)
    assert seen[0] == (1, 6, 0.5) and seen[-1] == (6, 6, 1.0)
    with plain.watch_sampling(lambda done, n, t, x: seen.append((done, n, round(t, 6)))):
        plain.generate_condition(Condition(label=labels), use_ema=False, start=(reached[0.4], 0.35))
    assert seen[6] == (1, 7, 0.4)
    for start in ((whole, 1.0), (whole, -0.1), (whole[:1], 0.5), (whole[:, :, :8], 0.5)):
        with pytest.raises(ConfigError, match="to start from"):
            plain.generate_condition(Condition(label=labels), use_ema=False, start=start)


def test_check_data_names_what_does_not_fit():
    module = make()
    module.check_data({"num_tokens": 16, "tokenizer": WORDS.fingerprint, "num_classes": 1})
    with pytest.raises(ConfigError, match="num_tokens=16"):
        module.check_data({"num_tokens": 256})
    with pytest.raises(ConfigError, match="another tokenizer"):
        module.check_data({"tokenizer": "0" * 64})


def test_a_tokenizer_comes_as_a_word_a_folder_or_json(tmp_path):
    learned = train_bpe(["the cat sat on the mat " * 20], 280)
    (tmp_path / "tokenizer.json").write_text(json.loads(learned.to_json())["definition"])
    assert read_tokenizer("bytes").fingerprint == WORDS.fingerprint
    assert read_tokenizer(learned.to_json()).fingerprint == learned.fingerprint
    assert read_tokenizer(str(tmp_path)).encode("the cat") == learned.encode("the cat")
    for spec in ("bpe", "bpe:300"):
        with pytest.raises(ConfigError, match="learned from text"):
            read_tokenizer(spec)
    with pytest.raises(CheckpointError, match="damaged"):
        read_tokenizer('{"kind": ')
    # A checkpoint needs no folder any more.
    module = make(tokenizer=str(tmp_path))
    assert read_tokenizer(module.hparams["tokenizer"]).fingerprint == module.tokenizer.fingerprint
    assert make().hparams["tokenizer"] == WORDS.to_json()


def test_the_mapping_says_its_limit():
    class Huge:
        vocab_size = (1 << 24) + 1

    import jitflow.apps.text.module as text_module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "read_tokenizer", lambda spec: type("T", (Huge,), {"to_json": lambda self: ""})())
        for mapping in MAPPINGS:
            with pytest.raises(ConfigError, match=r"16777216 tokens; .*16777217"):
                make(mapping=mapping)


def test_a_checkpoint_holds_the_documented_names_and_gives_the_model_back(tmp_path):
    module = shaken(make(mapping="lattice", img_size=4, P_mean=-0.3, self_conditioning=False))
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, max_steps=1, max_epochs=1,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    batch = [ImageBatch(text_ids(module, 2), torch.zeros(2, dtype=torch.int64), torch.arange(2))]
    trainer.fit(module, torch.utils.data.DataLoader(batch, batch_size=None))
    path = tmp_path / "best_model.pth"
    trainer.save_checkpoint(path)
    saved = load_checkpoint(path)
    for documented, own in (("model_state_dict", saved["state_dict"]), ("optimizer_state_dict", None)):
        assert documented in saved
        if own is not None:
            assert all(value.data_ptr() == own[name].data_ptr() for name, value in saved[documented].items())
    assert saved["optimizer_state_dict"]["param_groups"] == saved["optimizer_states"][0]["param_groups"]
    assert saved["scheduler_state_dict"] == {"last_epoch": 1, "base_lrs": [1e-4, 1e-4], "_last_lr": [1e-4, 1e-4]}
    again = load_module(path)
    assert isinstance(again, TextLightningModule)
    assert again.colours.mapping == "lattice" and again.P_mean == -0.3
    for (name, a), b in zip(module.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    net = load_pretrained_jit("JiT-N/4", path, 4, **TINY)
    x, t = torch.randn(2, 3, 4, 4), torch.tensor([0.2, 0.5])
    assert torch.equal(net.eval()(x, t), module.net.eval()(x, t))
