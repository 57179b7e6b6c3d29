"""The Frechet loss against the distance of evaluations, and its gradient against autograd over the whole batch."""

from dataclasses import replace

import pytest
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.core.seeding import noise_from_seeds, use_seeds
from jitflow.data.batch import ImageBatch
from jitflow.data.digits import DigitsDataModule
from jitflow.data.requests import LabelDataModule
from jitflow.errors import ConfigError
from jitflow.evaluation.digits_features import DigitsExtractor
from jitflow.evaluation.features import PixelExtractor
from jitflow.evaluation.frechet import Statistics, frechet_distance
from jitflow.posttraining.frechet import FrechetTarget, Moments
from jitflow.posttraining.generator import generate_pixels, with_gradient
from jitflow.posttraining.population import Population, Sums
from jitflow.posttraining.spaces import load_spaces
from jitflow.posttraining.term import FrechetLoss
from jitflow.training.terms import CosineTerm


def gaussian(dim, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(dim, rank, generator=generator, dtype=torch.float64)
    return Statistics(torch.randn(dim, generator=generator, dtype=torch.float64), factor @ factor.T / rank)


def moments_of(statistics):
    return Moments(statistics.mu, statistics.sigma + torch.outer(statistics.mu, statistics.mu))


@pytest.mark.parametrize("rank", [12, 5])
def test_distance_is_that_of_evaluations(rank):
    real, drawn = gaussian(12, rank, 0), gaussian(12, 12, 1)
    found = FrechetTarget(real).distance(moments_of(drawn))
    assert float(found) == pytest.approx(frechet_distance(*drawn, *real), rel=1e-9)
    assert float(FrechetTarget(real).distance(moments_of(real))) == pytest.approx(0, abs=1e-7)


def test_the_gradient_is_finite_where_the_population_has_collapsed():
    mean = torch.zeros(6, dtype=torch.float64)
    value, gradient = FrechetTarget(gaussian(6, 6, 0)).log_distance(Moments(mean, torch.zeros(6, 6).double()))
    assert value.isfinite() and all(part.isfinite().all() for part in gradient)


def test_moments_of_micro_batches_are_those_of_the_whole():
    features = torch.randn(50, 7)
    sums = Sums([7], torch.device("cpu"))
    for part in features.split(16):
        sums.add([part])
    (moments,) = sums.moments()
    torch.testing.assert_close(moments.mean, features.double().mean(0))
    torch.testing.assert_close(
        moments.second - torch.outer(moments.mean, moments.mean), torch.cov(features.double().T, correction=0)
    )


def test_a_population_averages_over_batches():
    population = Population([1], decay=0.9)
    one, two = (Moments(torch.full((1,), v).double(), torch.full((1, 1), v**2).double()) for v in (1.0, 2.0))
    population.store(population.updated([one]))
    assert float(population.moments()[0].mean) == 1
    assert float(population.updated([two])[0].mean) == pytest.approx(1.1)
    assert float(population.updated([two])[0].second) == pytest.approx(1.3)
    assert set(population.state_dict()) == {"is_filled", "mean0", "second0"}


@pytest.mark.parametrize("make", [lambda: PixelExtractor(4), lambda: PixelExtractor(2, 3), DigitsExtractor])
def test_features_with_gradients_are_those_of_whole_grey_levels(make, shared_digits_classifier):
    data = DigitsDataModule()
    data.setup()
    images, extractor = data.dataset_train.images[:8], make()
    pixels = images.float().requires_grad_()
    features = extractor.features(pixels)
    assert torch.equal(features.detach(), extractor(images).features)
    (gradient,) = torch.autograd.grad(features.sum(), pixels)
    assert gradient.abs().sum() > 0


def make_module(**settings):
    torch.manual_seed(0)
    module = JiTLightningModule("JiT-N/4", 16, 10, in_channels=1, net_settings={"depth": 2}, **settings)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    return module


def test_it_generates_what_sampling_does():
    module = make_module(sampling_method="euler", num_sampling_steps=2)
    labels = torch.arange(4)
    with use_seeds(range(4)):
        sampled = module.codec.decode(module.generate(labels, use_ema=False))
    module.eval()
    pixels = generate_pixels(module, noise_from_seeds(module.codec.shape, range(4)), labels, 2)
    assert (pixels.round() - sampled.float()).abs().max() <= 1


@pytest.mark.parametrize(("steps", "decay"), [(1, 0.0), (2, 0.9)])
def test_micro_batched_gradient_is_that_of_the_whole_batch(steps, decay, monkeypatch):
    spaces = [*load_spaces("pixels:4", "digits", (1, 16, 16)), *load_spaces("pixels:2", "digits", (1, 16, 16))]
    spaces = [replace(space, name=f"space{place}") for place, space in enumerate(spaces)]
    monkeypatch.setattr("jitflow.posttraining.term.load_spaces", lambda *given: spaces)
    module = make_module(attn_dropout=0.5, proj_dropout=0.5)
    term = FrechetLoss("two", "digits", steps=[steps], micro_batch_size=7, decay=decay)
    module.add_loss_term(term)
    population = term.populations[str(steps)]
    if decay:
        population.store([moments_of(gaussian(space.extractor.dim, 80, 3)) for space in spaces])
    batch = ImageBatch(torch.empty(20, 0), torch.arange(20) % 10, torch.arange(20))
    outputs = module.loss_terms.step_owner.train_step(module, batch, (0, 0, 0))
    outputs.loss.backward()
    found = {name: p.grad.clone() for name, p in module.net.named_parameters() if p.requires_grad}
    module.zero_grad()

    whole = FrechetLoss("two", "digits", steps=[steps], micro_batch_size=20, decay=decay)
    noise = noise_of(whole, module, batch)
    module.eval()
    pixels = generate_pixels(module, noise, batch.labels, steps)
    total = 0
    for place, space in enumerate(spaces):
        f = space.features(pixels).double()
        batch_moments = Moments(f.mean(0), f.T @ f / len(f))
        if decay:
            old = population.moments()[place]
            batch_moments = Moments(*(decay * o + (1 - decay) * n for o, n in zip(old, batch_moments, strict=True)))
        distance = space.target.distance(batch_moments)
        assert float(outputs.parts[f"frechet_{space.name}_{steps}"]) == pytest.approx(distance.item(), rel=1e-5)
        total = total + distance / distance.detach()
    total.backward()
    for name, parameter in module.net.named_parameters():
        if parameter.requires_grad:
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            scale = expected.abs().max().clamp(min=1e-6)
            assert (found[name] - expected).abs().max() <= 1e-5 * scale + 1e-9, name


def test_in_half_precision_every_micro_batch_has_its_gradient():
    gradients = []
    for micro_batch_size, half in ((20, False), (5, True)):
        module = make_module()
        module.add_loss_term(FrechetLoss("pixels:4", "digits", micro_batch_size=micro_batch_size, decay=0.0))
        batch = ImageBatch(torch.empty(20, 0), torch.arange(20) % 10, torch.arange(20))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = module.loss_terms.step_owner.train_step(module, batch, (0, 0, 0))
        outputs.loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.net.parameters() if p.requires_grad]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
    assert gradients[1].norm() / gradients[0].norm() == pytest.approx(1, abs=0.05)


def noise_of(term, module, batch):
    """Record the noise that a step draws."""
    seen = []

    class Recorded(Exception):
        pass

    def record(module, noise, labels, steps):
        seen.append(noise)
        raise Recorded

    term.build(module)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Recorded):
        patch.setattr("jitflow.posttraining.term.generate_pixels", record)
        term.train_step(module, batch, (0, 0, 0))
    return seen[0]


def test_a_known_gradient_is_scaled_as_a_loss_is():
    weight = torch.ones(3, requires_grad=True)
    loss = with_gradient(torch.tensor(2.0), [weight], [torch.tensor([1.0, 2.0, 3.0])])
    assert loss.item() == 2
    (3 * loss).backward()
    assert weight.grad.tolist() == [3, 6, 9]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"steps": [2, 2]}, "steps"),
        ({"steps": []}, "steps"),
        ({"steps": [0]}, "steps"),
        ({"decay": 1.0}, "decay"),
        ({"num_first": 1}, "num_first"),
        ({"micro_batch_size": 0}, "micro_batch_size"),
    ],
)
def test_bad_arguments_are_one_error(arguments, named):
    with pytest.raises(ConfigError, match=named):
        FrechetLoss("digits", "digits", **arguments)


def test_it_stands_alone_among_loss_terms():
    module = make_module()
    module.add_loss_term(CosineTerm())
    with pytest.raises(ConfigError, match="replaces the training step"):
        module.add_loss_term(FrechetLoss("pixels:4", "digits"))


def test_labels_without_images_are_balanced_and_shuffled():
    data = LabelDataModule(10, 16, batch_size=20, num_images=100, channels=1)
    batches = list(data.train_dataloader())
    labels = torch.cat([batch.labels for batch in batches])
    assert len(batches) == 5 and labels.bincount().tolist() == [10] * 10
    assert not torch.equal(labels, torch.arange(100) % 10)
    assert data.get_dataset_info()["classes"] == [str(label) for label in range(10)]
