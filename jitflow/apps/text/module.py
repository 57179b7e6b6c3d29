"""Lightning module of text as colour: a JiT on images whose colours are tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from jitflow.apps.text.code_posterior import CodePosterior, digit_cross_entropy
from jitflow.apps.text.colour import ColourCodec
from jitflow.apps.text.colour import Mapping as ColourMapping
from jitflow.apps.text.flow_settings import TextFlowSettings
from jitflow.apps.text.network import build_jit_model
from jitflow.apps.text.tokenizer import Tokenizer, make_tokenizer, tokenizer_from_json
from jitflow.core.condition import Condition
from jitflow.core.path import data_from_velocity, velocity_from_data
from jitflow.core.seeding import mix_seeds, noise_from_seeds
from jitflow.errors import ConfigError, unknown_name
from jitflow.layers.transformer import CompiledParts
from jitflow.training.module import FlowModule
from jitflow.training.terms import FlowState

_STREAM_CONDITION = 4
# For infilling: share of tokens shown clean, and factor of the training time. Chosen by experiment: almost pure noise,
# but all times still contribute.
_INFILL_SHOWN_SHARE, _INFILL_TIME_FACTOR = 0.8, 0.02
Decoder = Literal["expected", "direct"]
DECODERS: tuple[Decoder, ...] = ("expected", "direct")


class TextLightningModule(FlowModule):
    """LightningModule that trains a JiT on text as images of tokens, and samples text from it.

    Data are token ids, which the colour codec encodes as images. Everything needed to decode a sample (tokeniser,
    mapping, codebook seed) is a setting and so stored in every checkpoint.

    Args:
        tokenizer: The tokeniser as JSON (``to_json``), ``"bytes"``, or a folder with a ``tokenizer.json``. Checkpoints
            always hold the JSON. In a recipe null takes the data's tokeniser.
        model_name: Name of the network, see :func:`jitflow.apps.text.network.build_jit_model`.
        img_size: Side of the images in pixels.
        mapping: ``codebook``, ``lattice`` or ``base256``.
        codebook_seed: Seed of the codebook.
        decoder: Meaning of the network's output. ``expected``: logits of codewords, combined with the noisy evidence of
            each position; their mean codeword is the predicted image (codebook and ``predict_clean`` only).
            ``direct``: the predicted image or velocity itself.
        self_conditioning: Condition the network on its own estimate of the text.
        net_settings: Arguments of the network that replace the variant's.
        gradient_checkpointing: Recompute blocks in the backward pass to save memory.
        compile: Compile every block with ``torch.compile`` (true, or ``"blocks"``), the whole ``"network"``, or it and
            the loss of a training step together (``"loss"``); ``"auto"`` is ``"loss"`` on CUDA and nothing elsewhere.
        settings: Further :class:`TextFlowSettings`.

    Attributes:
        tokenizer: The tokeniser.
        colours: The colour codec.
        posterior: Computes codeword probabilities from the output; None for the decoder ``direct``.
        token_bias: Position-independent logit of each token, shape ``(vocab_size,)``, trained, and initialised with the
            log-frequencies of the training text; None for the decoder ``direct``.
        temperature: Divides the log-probabilities of codewords while sampling (decoder ``expected`` only); below 1
            favours likely tokens.

    Raises:
        ConfigError: If a value is out of its range or the mapping cannot hold the vocabulary.
    """

    application: ClassVar[str] = "text"
    # Token probabilities are computed in true float32, see code_posterior.py.
    is_one_graph: ClassVar[bool] = False
    settings_class = TextFlowSettings

    cross_entropy_weight: float
    pad_weight: float
    infill_prob: float
    prompt_prob: float

    def __init__(
        self,
        tokenizer: str | None = "bytes",
        model_name: str = "JiT-B/4",
        img_size: int = 64,
        *,
        mapping: ColourMapping = "codebook",
        codebook_seed: int = 0,
        decoder: Decoder | None = None,
        self_conditioning: bool = True,
        net_settings: dict[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        compile: bool | CompiledParts = "auto",
        **settings: Any,
    ) -> None:
        flow = TextFlowSettings(**settings)
        allows_expected = mapping == "codebook" and flow.predict_clean
        decoder = decoder or ("expected" if allows_expected else "direct")
        if decoder not in DECODERS:
            raise unknown_name("decoder", decoder, DECODERS)
        if decoder == "expected" and not allows_expected:
            raise ConfigError("decoder expected needs the mapping codebook and predict_clean; use decoder direct")
        if tokenizer is None:
            raise ConfigError("tokenizer is missing: give bytes, a folder, or the JSON of one")
        built_tokenizer = read_tokenizer(tokenizer)
        # Checkpoints store the JSON, since a folder may be missing when they are loaded.
        tokenizer = built_tokenizer.to_json()
        colours = ColourCodec(built_tokenizer.vocab_size, mapping, img_size, seed=codebook_seed)
        net = build_jit_model(
            model_name,
            img_size,
            flow.predict_clean,
            self_conditioning=self_conditioning,
            gradient_checkpointing=gradient_checkpointing,
            **(net_settings or {}),
        )
        net.compile_parts(compile)
        super().__init__(
            colours,
            net,
            # The only label is 0, "no class".
            num_classes=0,
            settings=flow,
            loss_terms=[_TokenCrossEntropy(self, flow.cross_entropy_weight)] if flow.cross_entropy_weight else [],
        )
        self.model_name = model_name
        self.tokenizer = built_tokenizer
        self.colours = colours
        self.posterior = CodePosterior(colours, noise_scale=flow.noise_scale) if decoder == "expected" else None
        self.token_bias = nn.Parameter(torch.zeros(built_tokenizer.vocab_size)) if decoder == "expected" else None
        # Not sent to loggers: the JSON of a learned tokeniser is long.
        self.save_hyperparameters(flow.arguments(), logger=False)
        self.save_hyperparameters(logger=False)

    @property
    def takes_temperature(self) -> bool:
        """Whether the decoder gives codeword probabilities, which a temperature can divide."""
        return self.posterior is not None

    def velocity_of(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Convert the network's prediction to a velocity; arguments and shapes as in the base class."""
        if self.posterior is None:
            return super().velocity_of(output, x_t, t)
        logits = self.token_logits(output, x_t, t)
        x1_pred = self.posterior.expected_image(logits if self.temperature == 1 else logits / self.temperature)
        return velocity_from_data(x1_pred, x_t, t, t_eps=self.t_eps)

    def token_logits(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Compute the token logits at each position, ``(B, num_tokens, vocab_size)``, for the decoder ``expected``.

        Args:
            output: Prediction, shape ``(B, 3, H, W)``, float32.
            x_t: Path sample, shape ``(B, 3, H, W)``.
            t: Time, shape ``(B,)``.

        Raises:
            ConfigError: If the decoder is ``direct``.
        """
        if self.posterior is None:
            raise ConfigError("only the decoder expected has token logits; this model has the decoder direct")
        return self.posterior.logits(output, x_t, t, bias=self.token_bias)

    @torch.no_grad()
    def first_hint(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the posterior mean codeword of each position without context, shape ``(B, 3, H, W)``.

        Args:
            x_t: Path sample, shape ``(B, 3, H, W)``.
            t: Time, shape ``(B,)``.
        """
        if self.posterior is None:
            return super().first_hint(x_t, t)
        return self.posterior.expected_image(self.token_logits(torch.zeros_like(x_t), x_t, t))

    @classmethod
    def settings_from_data(cls, info: Mapping[str, Any]) -> dict[str, Any]:
        """Return the data's tokeniser; bytes if unknown."""
        return {"tokenizer": info.get("tokenizer_json", "bytes")}

    @torch.no_grad()
    def adopt_data(self, info: dict[str, Any]) -> None:
        """Initialise the token bias with the training text's token frequencies, unless a checkpoint provided one."""
        counts = info.get("token_counts")
        if self.token_bias is None or counts is None or bool(self.token_bias.any()):
            return
        # Half a count for tokens that never occur, so that their log-frequency is finite.
        log_counts = (torch.as_tensor(counts, dtype=torch.float64) + 0.5).log()
        self.token_bias.copy_(log_counts - log_counts.logsumexp(dim=0))

    def token_cross_entropy(self, output: Tensor, x_t: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """Compute the cross-entropy of the true tokens under the network's prediction.

        Args:
            output: Prediction, shape ``(B, 3, H, W)``, float32.
            x_t: Path sample, shape ``(B, 3, H, W)``.
            t: Time, shape ``(B,)``.
            ids: Token ids, shape ``(B, num_tokens)``.

        Returns:
            Cross-entropy in nats, shape ``(B, num_tokens)``.
        """
        if self.posterior is not None:
            return self.posterior.cross_entropy(self.token_logits(output, x_t, t), ids)
        x1_pred = output if self.prediction == "data" else data_from_velocity(output, x_t, t, t_eps=self.t_eps)
        if self.colours.mapping == "codebook":
            # The prediction already contains the evidence.
            direct = CodePosterior(self.colours)
            return direct.cross_entropy(direct.logits(x1_pred, torch.zeros_like(x_t), torch.zeros_like(t)), ids)
        return digit_cross_entropy(self.colours, x1_pred, t, ids, noise_scale=self.noise_scale)

    def loss_weight(self, data: Any) -> Tensor | None:
        """Return loss weight 1 for tokens and the end token, ``pad_weight`` for padding."""
        if data is None:
            return None
        return self.colours.spread(torch.where(data == self.tokenizer.pad_id, self.pad_weight, 1.0))

    def training_condition(self, x1: Tensor, t: Tensor, batch: Any) -> tuple[Condition, Tensor]:
        """Show a prompt or infilling context of some texts clean; the choice depends on (seed, epoch, index).

        A prompt is a prefix of random length. Infilling shows most tokens at random positions, and scales the time of
        the others close to pure noise, so that they can only be predicted from their context.
        """
        if not (self.prompt_prob or self.infill_prob):
            return Condition(), t
        num, num_tokens = len(x1), self.colours.num_tokens
        infilled = self._draw(num, 0) < self.infill_prob
        prompted = ~infilled & (self._draw(num, 1) < self.prompt_prob)
        lengths = torch.where(prompted, self._draw(num, 2) * num_tokens, 0.0).long()
        shown = infilled[:, None] & (self._draw(num, 3, num_tokens) < _INFILL_SHOWN_SHARE)
        mask = self.colours.spread(shown.to(torch.uint8)).bool() | self.prompt_mask(lengths)
        t = torch.where(infilled.to(t.device), t * _INFILL_TIME_FACTOR, t)
        return Condition(known=x1, mask=mask.to(x1.device)), t

    def _draw(self, num: int, part: int, *shape: int) -> Tensor:
        """Draw uniform numbers, shape ``(num, *shape)``, on the CPU, seeded by (seed, epoch, index) if known."""
        index = self._batch_index
        if index is None or self.run_seed is None:
            return torch.rand(num, *shape)
        seeds = [mix_seeds(_STREAM_CONDITION, self.run_seed, self._batch_epoch, part, i) for i in index.tolist()]
        return torch.special.ndtr(noise_from_seeds(shape, seeds))

    def prompt_mask(self, lengths: Tensor) -> Tensor:
        """Return the pixel mask of the first ``lengths`` tokens, shape ``(B,)``: bool ``(B, 1, H, W)``."""
        positions = torch.arange(self.colours.num_tokens, device=lengths.device)
        return self.colours.spread((positions < lengths[:, None]).to(torch.uint8)).bool()

    def check_data(self, info: dict[str, Any]) -> None:
        """Raise ConfigError if the data's number of tokens or tokeniser does not fit this module."""
        num_tokens = info.get("num_tokens", self.colours.num_tokens)
        if num_tokens != self.colours.num_tokens:
            raise ConfigError(
                f"the data has {num_tokens} tokens a text but an image holds {self.colours.num_tokens}; "
                f"set the data's num_tokens={self.colours.num_tokens}"
            )
        given = info.get("tokenizer", self.tokenizer.fingerprint)
        if given != self.tokenizer.fingerprint:
            raise ConfigError(
                f"the data was made by another tokenizer ({given[:12]}) than the model's "
                f"({self.tokenizer.name}, {self.tokenizer.fingerprint[:12]}); use the one of the checkpoint"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the checkpoint entries that the text documents name, sharing every tensor with Lightning's entries."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["model_state_dict"] = checkpoint["state_dict"]
        if checkpoint.get("optimizer_states"):
            checkpoint["optimizer_state_dict"] = checkpoint["optimizer_states"][0]
        schedulers = checkpoint.get("lr_schedulers")
        checkpoint["scheduler_state_dict"] = schedulers[0] if schedulers else _schedule_state(checkpoint)


def read_tokenizer(spec: str) -> Tokenizer:
    """Build a tokeniser from its JSON, ``"bytes"`` or a folder.

    Args:
        spec: JSON from ``to_json``, ``"bytes"``, or a folder with a ``tokenizer.json``.

    Returns:
        The tokeniser.

    Raises:
        ConfigError: If it names a tokeniser that must be learned first, such as ``"bpe"``, or none.
        CheckpointError: If the JSON is damaged.
    """
    if spec.lstrip().startswith("{"):
        return tokenizer_from_json(spec)
    if spec.partition(":")[0] == "bpe":
        raise ConfigError(
            f"the tokenizer {spec} is learned from text, which `jitflow text train` does; here give bytes, a folder, "
            "or the JSON of a learned one"
        )
    return make_tokenizer(spec)


def _schedule_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Build the learning-rate state in the format of torch's schedulers, from our callback's values."""
    groups = [group for state in checkpoint.get("optimizer_states", [])[:1] for group in state["param_groups"]]
    return {
        "last_epoch": int(checkpoint.get("global_step", 0)),
        "base_lrs": [group.get("peak_lr", group["lr"]) for group in groups],
        "_last_lr": [group["lr"] for group in groups],
    }


class _TokenCrossEntropy:
    """Loss term: cross-entropy of the tokens, with the element weights of the velocity loss."""

    name = "cross_entropy"

    def __init__(self, module: TextLightningModule, weight: float) -> None:
        self.module = module
        self.weight = weight

    def __call__(self, state: FlowState) -> Tensor:
        """Compute the weighted mean over tokens, shape ``(B,)``; 0 if only the model space was given."""
        if state.data is None:
            return state.v_pred.new_zeros(len(state.t))
        nats = self.module.token_cross_entropy(state.output, state.x_t, state.t, state.data)
        if state.weight is None:
            return nats.mean(dim=1)
        weight = self.module.colours.gather(state.weight[:, :1])
        return (nats * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1e-12)
