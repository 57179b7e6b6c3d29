"""Measuring models of text of which is known how good they are: one that knows nothing, one that knows the answer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import train_text
from torch import Tensor, nn

from jitflow import cli
from jitflow.apps.text.baselines import context_free_scores, unigram_probabilities
from jitflow.apps.text.evaluation_settings import TextEvaluation
from jitflow.apps.text.judge import PLOT_NAME, REPORT_NAME, evaluate
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.noisy_reading import read_noisy
from jitflow.apps.text.sample_judge import judge_samples, stream_texts
from jitflow.apps.text.sampling import TextSamples
from jitflow.apps.text.token_store import TokenStream
from jitflow.core.path import interpolate
from jitflow.core.seeding import noise_from_seeds
from jitflow.errors import CheckpointError, ConfigError, DataError, MissingFileError
from jitflow.evaluation.score_sheet import ScoreSheet
from jitflow.io.files import read_json

NET = {"depth": 1, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8}
SETTINGS = TextEvaluation(7, 3, times=(0.1, 0.2, 0.3), sampling={"steps": 3}, batch_size=4)
SENTENCES = [f"Line {i} says that {word} follows {i + 1}.\n" for i, word in enumerate(["this", "that", "more"] * 40)]


def small_module(**settings) -> TextLightningModule:
    return TextLightningModule("bytes", "JiT-N/4", 16, net_settings=NET, **settings).eval()


def noisy(module: TextLightningModule, ids: Tensor, t: float) -> Tensor:
    noise = noise_from_seeds(module.codec.shape, range(len(ids)))
    return interpolate(noise, module.colours.encode(ids), torch.full((len(ids),), t))


class Knows(nn.Module):
    """A network that says the truth; one that takes hints, only when it is told how wrong it was before."""

    def __init__(self, truth: Tensor, *, self_conditioning: bool) -> None:
        super().__init__()
        self.truth = nn.Parameter(truth)
        self.self_conditioning = self_conditioning

    def forward(self, x: Tensor, t: Tensor, y: Tensor, hint: Tensor | None = None) -> Tensor:
        told = not self.self_conditioning or (hint is not None and float((hint * self.truth).mean()) < -0.1)
        return (50.0 if told else -50.0) * self.truth


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 256, (6, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": "".join(SENTENCES[i : i + 4])}) + "\n" for i in range(0, 120, 4)))
    return path


@pytest.fixture(scope="module")
def checkpoint(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    settings = {"model": "JiT-N/4", "img_size": 16, "net_settings": NET, "batch_size": 8, "warmup_epochs": 0}
    return train_text(text, out, epochs=1, max_steps=3, accelerator="cpu", val_interval=9, **settings).checkpoint


@pytest.fixture(scope="module")
def report(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    return evaluate(checkpoint, None, out, SETTINGS, device="cpu"), out


def test_a_network_that_says_nothing_reads_as_well_as_anyone_who_does_not_know_the_frequencies(ids):
    module = small_module()
    torch.nn.init.zeros_(module.net.final_layer.linear.weight)
    uniform = torch.full((module.colours.vocab_size,), 1 / module.colours.vocab_size)
    for t in (0.15, 0.25):
        (first, second) = read_noisy(module, noisy(module, ids, t), t, ids, num_passes=2)
        best = context_free_scores(module.colours, ids, t, uniform, seeds=range(len(ids)))
        assert float(first.nats.mean()) == pytest.approx(best.cross_entropy, rel=1e-4)
        # An untrained hint changes nothing.
        assert torch.equal(first.ids, second.ids)
    assert float((first.ids == ids).double().mean()) == pytest.approx(best.accuracy, abs=0.05)


def test_a_network_that_knows_the_text_is_right_from_pure_noise_on(ids):
    module = small_module(self_conditioning=False)
    module.net = Knows(module.colours.encode(ids), self_conditioning=False)
    readings = read_noisy(module, noisy(module, ids, 0.01), 0.01, ids, num_passes=2)
    assert len(readings) == 1
    assert torch.equal(readings[0].ids, ids)
    assert float(readings[0].nats.max()) < 1e-3


def test_the_second_pass_is_told_the_reading_of_the_first(ids):
    module = small_module()
    module.net = Knows(module.colours.encode(ids), self_conditioning=True)
    first, second = read_noisy(module, noisy(module, ids, 0.1), 0.1, ids, num_passes=2)
    assert float((first.ids == ids).double().mean()) < 0.05
    assert torch.equal(second.ids, ids)
    assert len(read_noisy(module, noisy(module, ids, 0.1), 0.1, ids)) == 1


@pytest.mark.parametrize("mapping", ["lattice", "base256"])
def test_the_mappings_of_one_pixel_are_read_through_the_predicted_image(mapping):
    module = small_module(mapping=mapping, self_conditioning=False)
    ids = torch.randint(0, 256, (2, 256), generator=torch.Generator().manual_seed(2))
    module.net = Knows(module.colours.encode(ids) / 50, self_conditioning=False)
    (reading,) = read_noisy(module, noisy(module, ids, 0.3), 0.3, ids)
    assert torch.equal(reading.ids, ids)


def test_the_report_holds_what_can_be_computed_without_it(report, checkpoint, text):
    values, out = report
    assert read_json(out / REPORT_NAME) == json.loads(json.dumps(values))
    assert (out / PLOT_NAME).stat().st_size > 1000
    assert sorted(p.name for p in (out / "samples").glob("*.txt")) == ["samples.txt"]
    held_out = values["held_out"]
    assert list(held_out["token_accuracy"]) == ["0.1", "0.2", "0.3"]
    assert held_out["num_texts"] == 7
    for name in ("token_accuracy", "token_accuracy_one_pass", "unigram_baseline", "context_free_baseline"):
        assert all(0 <= share <= 1 for share in held_out[name].values())
    # A byte is a token here, so that the two units differ by the logarithm alone.
    nats, bits = held_out["nats_per_token"]["0.2"], held_out["bits_per_byte"]["0.2"]
    assert bits == pytest.approx(nats / math.log(2), rel=0.05)
    nearest = held_out["time_nearest_half"]
    assert abs(held_out["context_free_baseline"][f"{nearest:g}"] - 0.5) == min(
        abs(share - 0.5) for share in held_out["context_free_baseline"].values()
    )
    gain = held_out["token_accuracy"][f"{nearest:g}"] - held_out["context_free_baseline"][f"{nearest:g}"]
    assert held_out["gain_at_time_nearest_half"] == gain
    assert 0 <= values["recovery"]["text_recovery_accuracy"] <= 1
    assert set(values["samples"]["ngram_perplexity"]) == {"samples", "held_out", "shuffled"}


def test_every_score_has_an_interval_around_it_and_a_card(report):
    values, _ = report
    metrics, intervals = values["metrics"], values["intervals"]
    nearest = f"{values['held_out']['time_nearest_half']:g}"
    assert metrics["reading/token_accuracy"] == pytest.approx(values["held_out"]["token_accuracy"][nearest])
    assert metrics["reading/bits_per_byte"] == pytest.approx(values["held_out"]["bits_per_byte"][nearest], rel=1e-6)
    assert metrics["recovery/text_recovery_accuracy"] == pytest.approx(values["recovery"]["text_recovery_accuracy"])
    assert metrics["recovery/token_accuracy"] == pytest.approx(values["recovery"]["token_accuracy"])
    assert metrics["codes/valid_codes"] == pytest.approx(values["samples"]["valid_codes"])
    assert metrics["training-text/copies"] == values["samples"]["copies"]
    # Three samples are too few for groups of two; seven texts are not.
    assert {"reading/token_accuracy", "recovery/exact", "training-text/copies"} <= intervals.keys()
    assert all(intervals[name]["low"] <= metrics[name] <= intervals[name]["high"] for name in intervals)
    card = values["protocol"]
    assert (card["steps"], card["ema"], card["num_texts"], card["recovery_time"]) == (3, 1, 7, 0.3)
    assert len(card["checkpoint_sha256"]) == len(card["reference"]["train_sha256"]) == 64
    assert values["trained_on"] == []


def test_the_baseline_is_that_of_the_same_noise(report, text):
    from jitflow.apps.text.data import TextDataModule

    module = small_module()
    data = TextDataModule(text, module.tokenizer, 16, random_offset=False)
    data.setup("fit")
    windows = data.dataset_val
    chosen = windows.read_batch(torch.linspace(0, len(windows) - 1, 7).round().long())[0]
    prior = unigram_probabilities(torch.from_numpy(data.dataset_train.stream.ids.astype(np.int64)), 258)
    mask = chosen != module.tokenizer.pad_id
    scores = context_free_scores(module.colours, chosen, 0.2, prior, seeds=range(7), mask=mask)
    held_out = report[0]["held_out"]
    assert held_out["context_free_baseline"]["0.2"] == scores.accuracy
    assert held_out["context_free_nats_per_token"]["0.2"] == scores.cross_entropy
    most_frequent = float((chosen == int(prior.argmax()))[mask].double().mean())
    assert held_out["unigram_baseline"]["0.2"] == most_frequent


def test_the_batch_size_changes_nothing(report, checkpoint, tmp_path):
    again = evaluate(checkpoint, None, tmp_path, replace(SETTINGS, num_samples=0, batch_size=7), device="cpu")
    assert "samples" not in again
    for name, curve in report[0]["held_out"].items():
        assert again["held_out"][name] == pytest.approx(curve, rel=1e-4)
    assert again["recovery"]["text_recovery_accuracy"] == report[0]["recovery"]["text_recovery_accuracy"]


def stream(texts: list[str]) -> TokenStream:
    parts = [[*text.encode(), 256] for text in texts]
    return TokenStream(np.concatenate(parts), np.cumsum([len(part) for part in parts]))


def samples_of(module: TextLightningModule, texts: list[str]) -> TextSamples:
    rows = [(list(text.encode()) + [256] + [257] * 16)[:16] for text in texts]
    x = module.colours.encode(torch.tensor(rows))
    return replace(TextSamples.read(module, x, range(len(texts))), texts=texts)


def test_real_text_passes_for_real_and_noise_does_not():
    module = small_module()
    train_stream, held_out = stream(SENTENCES[:60]), stream(SENTENCES[60:])
    real = [text[i : i + 15] for text in SENTENCES[61::2] for i in (0, 15)]
    judged = judge_samples(module, samples_of(module, real), train_stream, held_out)
    perplexity = judged["ngram_perplexity"]
    assert perplexity["samples"] == pytest.approx(perplexity["held_out"], rel=0.3)
    assert perplexity["shuffled"] > 3 * perplexity["held_out"]
    assert judged["valid_codes"] == 1
    assert judged["code_distance"]["largest"] == 0
    assert judged["num_samples"] == len(real)
    noise = ["".join(np.random.default_rng(i).permutation(list(text))) for i, text in enumerate(real)]
    shuffled = judge_samples(module, samples_of(module, noise), train_stream, held_out)["ngram_perplexity"]["samples"]
    assert shuffled > 3 * perplexity["samples"]
    sheet = ScoreSheet()
    judge_samples(module, samples_of(module, real), train_stream, held_out, sheet)
    assert sheet.metrics["ngram/perplexity"] == pytest.approx(perplexity["samples"])
    assert perplexity["samples"] in sheet.intervals["ngram/perplexity"]
    assert shuffled not in sheet.intervals["ngram/perplexity"]


def test_copies_of_the_training_text_are_found():
    module = small_module()
    copied = judge_samples(
        module, samples_of(module, [SENTENCES[0][:14], "zq"]), stream(SENTENCES[:5]), stream(SENTENCES[60:])
    )
    assert copied["samples"]["longest_copy_max"] == 14
    assert copied["samples"]["longest_copy_mean"] == 7
    assert copied["longest_copies"][0] == {"sample": 0, "length": 14, "text": SENTENCES[0][:14]}
    # Held-out lines share "Line " and " says that" with the training text, the sample more than any of them.
    assert copied["copies"] == 0.5 and 5 <= copied["copy_length"] < 14


def test_samples_without_any_text_have_no_perplexity():
    module = small_module()
    judged = judge_samples(module, samples_of(module, ["", ""]), stream(SENTENCES[:9]), stream(["".join(SENTENCES)]))
    assert judged["ngram_perplexity"]["samples"] is None
    # One held-out document is cut in two to have one half to fit the model on.
    assert judged["ngram_perplexity"]["held_out"] < judged["ngram_perplexity"]["shuffled"]


def test_streams_are_read_as_far_as_asked():
    module = small_module()
    texts = ["one", "two", "three"]
    assert stream_texts(module, stream(texts), 100) == texts
    assert stream_texts(module, stream(texts), 6) == ["one", "tw"]
    with pytest.raises(DataError, match="no text"):
        stream_texts(module, TokenStream(np.zeros(0, np.int64), np.zeros(0, np.int64)), 6)


def test_the_command_prints_tables(checkpoint, tmp_path, capsys):
    options = [
        "--num_texts",
        "2",
        "--num-images",
        "2",
        "--steps",
        "2",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "e"),
    ]
    assert cli.main(["text", "evaluate", str(checkpoint), *options]) in (0, None)
    printed = capsys.readouterr().out
    assert "without" in printed
    assert "text recovery from t = 0.3" in printed
    assert "valid codes" in printed
    assert (tmp_path / "e" / REPORT_NAME).exists()


def test_mistakes_are_told_before_anything_is_computed(checkpoint, tmp_path):
    for wrong in ({"num_texts": 0}, {"num_samples": -1}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            TextEvaluation(**wrong)
    for times in ((), (0.0,), (0.2, 1.0)):
        with pytest.raises(ConfigError, match="times"):
            TextEvaluation(times=times)
    with pytest.raises(ConfigError, match="recovery_time"):
        TextEvaluation(recovery_time=1.0)
    with pytest.raises(ConfigError, match="ema_version"):
        evaluate(checkpoint, None, tmp_path / "x", TextEvaluation(ema=3), device="cpu")
    with pytest.raises(MissingFileError):
        evaluate(tmp_path / "none.pth", out=tmp_path / "x")
    with pytest.raises(MissingFileError):
        evaluate(checkpoint, tmp_path / "no_text", tmp_path / "x", device="cpu")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError):
        evaluate(tmp_path / "other.ckpt", out=tmp_path / "x", device="cpu")
    assert not (tmp_path / "x" / REPORT_NAME).exists()


def test_text_too_short_to_hold_out_anything_is_an_error(checkpoint, tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(DataError, match="held out"):
        evaluate(checkpoint, tmp_path / "short.txt", tmp_path / "x", device="cpu")


def test_the_table_has_no_column_for_hints_that_there_are_not(report):
    from jitflow.apps.text.tables import accuracy_table

    held_out = report[0]["held_out"]
    assert len(accuracy_table(held_out).columns) == 7
    assert len(accuracy_table({**held_out, "token_accuracy_one_pass": {}}).columns) == 6
    assert SimpleNamespace(**held_out).num_tokens > 0
