"""Every usage pattern of the callbacks, at a size that a CPU trains in seconds, on scikit-learn's digits.

    python example_usage.py                       # all of them, one line each
    python example_usage.py --pattern ema         # one
    python example_usage.py --help                # their names

The documents of the callbacks show the same calls at full size; here only sizes, paths and epochs differ.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

try:
    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.loggers import CSVLogger

    from callbacks import (
        EMACallback,
        FIDEvaluationCallback,
        JiTModelCheckpoint,
        LearningRateSchedulerCallback,
        MetricLoggerCallback,
        create_default_callbacks,
    )
    from jitflow.data.digits import DigitsDataModule
    from jitflow.evaluation.features import PixelExtractor
    from jitflow.evaluation.moments import Moments
    from models.modelmodule import JiTLightningModule
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing.name} is not installed; run `make setup`, or `pip install -e '.[demo]'`") from None

PATTERNS = {}


def pattern(function):
    """Offer a function on the command line."""
    PATTERNS[function.__name__.replace("_", "-")] = function
    return function


def tiny_model():
    """Build a network that a CPU trains, for the ten digits."""
    return JiTLightningModule(
        model_name="JiT-N/4",
        img_size=16,
        num_classes=10,
        learning_rate=1e-3,
        ema_decay1=0.99,
        ema_decay2=0.9,
        num_sampling_steps=5,
        in_channels=1,
    )


def train(callbacks, *, epochs=1, model=None, **settings):
    """Train on a part of the digits."""
    saves = any(isinstance(c, JiTModelCheckpoint) for c in callbacks)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        limit_train_batches=8,
        limit_val_batches=0,
        callbacks=callbacks,
        enable_checkpointing=saves,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, **settings},
    )
    trainer.fit(model or tiny_model(), datamodule=DigitsDataModule(img_size=16, batch_size=32))
    return trainer


def digit_statistics(extractor):
    """Mean and covariance of the features of the real digits, which FID compares with."""
    data = DigitsDataModule(img_size=16)
    data.setup("fit")
    moments = Moments(extractor.dim)
    moments.update(extractor(data.dataset_train.images).features)
    return moments.mean, moments.covariance


def tiny_evaluation(cls=FIDEvaluationCallback):
    """Make an evaluation that needs no download: areas of pixels instead of Inception's features."""
    extractor = PixelExtractor(side=4)
    return cls(
        eval_freq=1,
        num_images=40,
        batch_size=20,
        num_classes=10,
        img_size=16,
        use_ema=True,
        extractor=extractor,
        reference=digit_statistics(extractor),
    )


@pattern
def ema(folder):
    """EMACallback: two averages of the weights."""
    ema_callback = EMACallback(ema_decay1=0.99, ema_decay2=0.9)
    model = train([ema_callback]).lightning_module
    weight, name = model.net.final_layer.linear.weight, "net.final_layer.linear.weight"
    away = [(average[name] - weight).norm().item() for average in (model.ema_params1, model.ema_params2)]
    return f"the averages lie {away[0]:.3f} (decay 0.99) and {away[1]:.3f} (decay 0.9) from the weights"


@pattern
def checkpoint(folder):
    """JiTModelCheckpoint: last state and milestones; load one and sample from it."""
    checkpoint_callback = JiTModelCheckpoint(dirpath=folder / "checkpoints", save_last_freq=1, save_milestone_freq=2)
    train([EMACallback(ema_decay1=0.99, ema_decay2=0.9), checkpoint_callback], epochs=2)
    model = JiTLightningModule.load_from_checkpoint(folder / "checkpoints" / "last.ckpt")
    images = model.generate(torch.tensor([3, 7]), use_ema=True)
    names = sorted(p.name for p in (folder / "checkpoints").iterdir())
    return f"saved {', '.join(names)}; sampled {tuple(images.shape)} from last.ckpt"


@pattern
def fid(folder):
    """FIDEvaluationCallback: score generated images while training."""
    fid_callback = tiny_evaluation()
    train([EMACallback(ema_decay1=0.99, ema_decay2=0.9), fid_callback])
    return f"eval/fid {fid_callback.metrics['eval/fid']:.3f} in features of 16 areas (no Inception)"


@pattern
def schedule(folder):
    """LearningRateSchedulerCallback: warm-up by fractions of an epoch, then a cosine."""
    lr_callback = LearningRateSchedulerCallback(lr_schedule="cosine", warmup_epochs=0.5, min_lr=0.0, epochs=2)
    rates = []
    watch = pl.callbacks.LambdaCallback(
        on_train_batch_end=lambda trainer, *_: rates.append(trainer.optimizers[0].param_groups[0]["lr"])
    )
    train([lr_callback, watch], epochs=2)
    return f"rates {rates[0]:.1e} at the start, {max(rates):.1e} after the warm-up, {rates[-1]:.1e} at the end"


@pattern
def metrics(folder):
    """MetricLoggerCallback: a line every so many batches."""
    metric_callback = MetricLoggerCallback(log_freq=4)
    train([metric_callback])
    return "two lines of numbers above"


@pattern
def defaults(folder):
    """create_default_callbacks: everything in one call."""
    callbacks = create_default_callbacks(
        ema_decay1=0.99, ema_decay2=0.9, save_dir=folder, warmup_epochs=0.5, img_size=16, num_classes=10, epochs=1,
        enable_fid_eval=False,
    )  # fmt: skip
    trainer = train(callbacks)
    return f"{', '.join(type(c).__name__ for c in callbacks)}; {trainer.global_step} steps"


@pattern
def custom(folder):
    """A choice of callbacks."""
    callbacks = [
        EMACallback(ema_decay1=0.99, ema_decay2=0.9),
        JiTModelCheckpoint(dirpath=folder / "checkpoints", save_last_freq=1),
        LearningRateSchedulerCallback(warmup_epochs=0.5, epochs=1),
    ]
    trainer = train(callbacks)
    return f"{len(callbacks)} callbacks, {trainer.global_step} steps"


@pattern
def from_args(folder):
    """The same from an argparse object with the names of the JiT release."""
    args = argparse.Namespace(
        ema_decay1=0.99, ema_decay2=0.9, output_dir=folder, eval_freq=40, num_images=50000, gen_bsz=256, class_num=10,
        img_size=16, lr_schedule="constant", warmup_epochs=0.5, epochs=1, online_eval=False,
    )  # fmt: skip
    callbacks = create_default_callbacks(
        ema_decay1=args.ema_decay1,
        ema_decay2=args.ema_decay2,
        save_dir=args.output_dir,
        eval_freq=args.eval_freq,
        num_images=args.num_images,
        eval_batch_size=args.gen_bsz,
        num_classes=args.class_num,
        img_size=args.img_size,
        lr_schedule=args.lr_schedule,
        warmup_epochs=args.warmup_epochs,
        epochs=args.epochs,
        enable_fid_eval=args.online_eval,
    )
    train(callbacks)
    return f"saved {', '.join(sorted(p.name for p in args.output_dir.iterdir()))}"


@pattern
def full(folder):
    """The complete example: model, data, callbacks, logger, trainer."""
    model = tiny_model()
    callbacks = create_default_callbacks(
        ema_decay1=0.99, ema_decay2=0.9, save_dir=folder, warmup_epochs=0.5, epochs=2, enable_fid_eval=False
    )
    logger = CSVLogger(save_dir=folder, name="logs")
    trainer = train(callbacks, epochs=2, model=model, logger=logger, precision="bf16-mixed", log_every_n_steps=4)
    return f"{trainer.global_step} steps in {trainer.precision}, loss {trainer.callback_metrics['train/loss']:.2f}"


@pattern
def ema_access(folder):
    """Find the EMA callback of a trainer, read an average and load it into the model."""
    trainer = train([EMACallback(ema_decay1=0.99, ema_decay2=0.9)])
    model = trainer.lightning_module
    ema_callback = next(cb for cb in trainer.callbacks if isinstance(cb, EMACallback))
    ema_state_dict = ema_callback.get_ema_state_dict(model, ema_version=1)
    ema_callback.load_ema_to_model(model, ema_version=1)
    same = all(torch.equal(model.state_dict()[name], value) for name, value in ema_state_dict.items())
    return f"{len(ema_state_dict)} tensors; the model now holds EMA 1: {same}"


class CustomEvaluationCallback(FIDEvaluationCallback):
    """An evaluation with one more number."""

    def _evaluate(self, trainer, pl_module, epoch):
        metrics = super()._evaluate(trainer, pl_module, epoch)
        images = pl_module.generate(torch.arange(10), use_ema=True)
        return {**metrics, "eval/brightness": images.mean().item()}


@pattern
def custom_evaluation(folder):
    """An evaluation of your own."""
    callback = tiny_evaluation(CustomEvaluationCallback)
    train([EMACallback(ema_decay1=0.99, ema_decay2=0.9), callback])
    return ", ".join(f"{name} {value:.3f}" for name, value in callback.metrics.items())


def main():
    """Run the chosen patterns."""
    lines = [f"  {name:18} {function.__doc__}" for name, function in PATTERNS.items()]
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="patterns:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pattern", choices=["all", *PATTERNS], default="all", metavar="NAME")
    parser.add_argument("--out", type=Path, help="keep what the patterns write in this folder")
    args = parser.parse_args()
    logging.basicConfig(format="    %(message)s")
    logging.getLogger("jitflow").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pl.seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as scratch:
        for name in PATTERNS if args.pattern == "all" else [args.pattern]:
            started = time.perf_counter()
            said = PATTERNS[name]((args.out or Path(scratch)) / name)
            print(f"{name}: {said} [{time.perf_counter() - started:.1f} s]", flush=True)


if __name__ == "__main__":
    main()
