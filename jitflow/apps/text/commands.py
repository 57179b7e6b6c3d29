"""The commands of text as colour, in the words of its documents; ``train`` is also ``train.py`` of the checkout.

Each function with a docstring is one command; jsonargparse makes its options and help from the signature.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from jitflow.errors import ConfigError
from jitflow.training.requests import DrawingRequest, TrainingRequest


def train(
    data_path: str | None = None,
    model: str | None = None,
    img_size: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    warmup_epochs: float | None = None,
    batch_size: int | None = None,
    output_dir: str | None = None,
    tokenizer: str | None = None,
    tokenizer_path: str | None = None,
    mapping: Literal["codebook", "lattice", "base256"] | None = None,
    resume: str | None = None,
    save_interval: int | None = None,
    val_interval: int | None = None,
    log_interval: int | None = None,
    val_path: str | None = None,
    weight_decay: float | None = None,
    gradient_accumulation_steps: int | None = None,
    max_grad_norm: float | None = None,
    max_steps: int | None = None,
    ema_decay: float | None = None,
    predict_clean: bool | None = None,
    decoder: Literal["expected", "direct"] | None = None,
    velocity_weight: float | None = None,
    cross_entropy_weight: float | None = None,
    self_conditioning: bool | None = None,
    infill_prob: float | None = None,
    prompt_prob: float | None = None,
    P_mean: float | None = None,
    P_std: float | None = None,
    time_kind: Literal["logit_normal", "uniform"] | None = None,
    noise_scale: float | None = None,
    net_settings: dict[str, Any] | None = None,
    pack: bool | None = None,
    seed: int | None = None,
    devices: int | None = None,
    accelerator: Literal["auto", "gpu", "cpu"] | None = None,
    precision: str | None = None,
    use_amp: bool = True,
    num_workers: int | None = None,
    compile: bool | Literal["blocks", "network"] | None = None,
    gradient_checkpointing: bool | None = None,
    use_wandb: bool = False,
    wandb_project: str = "jit-diffusion",
    wandb_name: str | None = None,
    wandb_entity: str | None = None,
    restart: bool = False,
) -> TrainingRequest:
    """Train a model of text as colour (the text application; images and all others: `jitflow train`).

    Run again, it goes on where it stopped; a finished training is left alone. Writes best_model.pth (lowest validation
    loss), checkpoint_epoch_N.pth and checkpoint-last.pth. Options that are null take the default named below; with
    --resume, the recorded value.

    Args:
        data_path: File or folder of .txt, .json, .jsonl. None, or ./data/train where there is none, is the built-in
            corpus.
        model: Name of the network, JiT-B/4 (jitflow models 'JiT*').
        img_size: Side of the images in pixels, 64.
        epochs: Length of the training, 100.
        lr: Peak learning rate, 1e-4.
        warmup_epochs: Length of the warm-up, 5, but no more than half of the training.
        batch_size: Images per step and process, 32.
        output_dir: Folder of the results, ./output.
        tokenizer: bytes, bpe, bpe:N (learned from the text) or a folder with a tokenizer.json; bytes.
        tokenizer_path: Such a folder; another name for --tokenizer.
        mapping: Colours of tokens; codebook.
        resume: Go on with a checkpoint, the newest of a folder, or the newest of --output_dir (auto).
        save_interval: Epochs between two checkpoints that stay, 10.
        val_interval: Epochs between two validations, 1.
        log_interval: Steps between two lines of the log files, 10.
        val_path: Text to validate on; by default a part of the text is held out.
        weight_decay: Decay of matrices, 0.01.
        gradient_accumulation_steps: Steps whose gradients make one update, 1.
        max_grad_norm: Largest norm of the gradient, 1; 0 for no limit.
        max_steps: Updates after which to stop whatever the epochs; -1, no limit.
        ema_decay: Decay of the average that is sampled from; 0.9999, less in short trainings.
        predict_clean: Predict the image; false predicts the velocity. true.
        decoder: What the output means, probabilities of codewords or colours; expected where it can be.
        velocity_weight: Factor of the velocity's squared error, 1.
        cross_entropy_weight: Factor of the tokens' cross-entropy, 1.
        self_conditioning: Tell the network its own estimate of the text; true.
        infill_prob: Share of texts that have gaps, which only the clean text around them can tell; 0.75.
        prompt_prob: Share of the others whose beginning is shown clean, as a prompt will be; 0.25.
        P_mean: Mean of the logit of the training times, -0.8.
        P_std: Standard deviation of the logit of the training times, 0.8.
        time_kind: Distribution of the training times, logit_normal.
        noise_scale: Standard deviation of the noise, 1.
        net_settings: Arguments of the network that replace the variant's, such as {"depth":6}.
        pack: Put documents one behind the other, true; false begins each in an image of its own.
        seed: Seed of everything random, 0.
        devices: Processes, on as many GPUs or on the CPU; 1.
        accelerator: auto, gpu or cpu; auto.
        precision: bf16-mixed on a GPU and 32-true on a CPU by default; Lightning's names.
        use_amp: Half precision on a GPU; false is --precision 32-true.
        num_workers: Loader processes, 0.
        compile: Compile every block with torch.compile (true), or the whole network as one (network); false.
        gradient_checkpointing: Recompute blocks in the backward pass to save memory; false.
        use_wandb: Log to Weights & Biases as well.
        wandb_project: Its project.
        wandb_name: Name of the run there.
        wandb_entity: Owner of the project.
        restart: Throw away what a training left in the folder, and begin anew.
    """
    words = dict(locals())
    import torch

    if tokenizer is not None and tokenizer_path is not None:
        raise ConfigError("--tokenizer and --tokenizer_path say the same thing; give one of them")
    if not use_amp and precision not in (None, "32-true"):
        raise ConfigError(f"--use_amp false means full precision, and --precision says {precision}; give one of them")
    words["tokenizer"] = tokenizer or tokenizer_path
    if not use_amp:
        words["precision"] = "32-true"
    elif precision is None and resume is None and accelerator != "cpu" and torch.cuda.is_available():
        words["precision"] = "bf16-mixed"
    if use_wandb:
        words["wandb"] = _wandb_settings(wandb_project, wandb_name, wandb_entity)
    ending = "done: {best}; `jitflow text sample {best}` writes text"
    return TrainingRequest(words, output_dir, resume=resume, restart=restart, ending=ending)


def _wandb_settings(project: str, name: str | None, entity: str | None) -> dict[str, Any]:
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError("use_wandb needs the package wandb; pip install wandb, or leave --use_wandb out")
    return {"project": project, "name": name, "entity": entity}


def sample(
    checkpoint: str,
    prompt: str | None = None,
    count: int = 4,
    seed: int = 0,
    steps: int | None = None,
    solver: Literal["euler", "heun", "midpoint", "multistep"] | None = None,
    churn: float | None = None,
    temperature: float | None = None,
    ema: Literal[0, 1, 2] | None = None,
    out: str = "outputs/text",
    batch_size: int = 64,
    device: str | None = None,
    precision: Literal["32", "bf16", "16"] = "32",
) -> DrawingRequest:
    """Write texts: samples.txt, samples.json with every setting, a PNG of each text, and a grid of them.

    Args:
        checkpoint: File to load.
        prompt: Beginning of every text.
        count: How many texts.
        seed: Seed of the first text; the others follow.
        steps: Steps of the solver; the model's own by default, as for all that follow.
        solver: euler, heun, midpoint or multistep.
        churn: How far sampling goes back towards the noise before each step, in steps; 0 is deterministic.
        temperature: Below 1 it writes what is likeliest.
        ema: Average of the weights: 1 or 2; 0 for the weights themselves.
        out: Folder of the results.
        batch_size: Images at a time.
        device: cpu, cuda, cuda:1, mps; the fastest there is by default.
        precision: Precision inside the network.
    """
    return DrawingRequest(
        checkpoint,
        asked={"prompt": prompt, "num": count},
        settings={"steps": steps, "solver": solver, "churn": churn, "temperature": temperature},
        out=out,
        seed=seed,
        ema=ema,
        batch_size=batch_size,
        device=device,
        precision=precision,
    )
