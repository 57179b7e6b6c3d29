"""Create feature extractors by name, for command lines; the weights of known networks are expected in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from jitflow.encoders.timm_network import parse_timm_spec
from jitflow.errors import ConfigError, MissingFileError, unknown_name
from jitflow.evaluation.features import FeatureExtractor, InceptionExtractor, PixelExtractor


@dataclass(frozen=True)
class KnownNetwork:
    """A network of timm that papers compare images with.

    Attributes:
        timm_name: timm's name of the network and its weights.
        img_size: Side of its input in pixels; None takes timm's.
    """

    timm_name: str
    img_size: int | None = None

    @property
    def path(self) -> Path:
        """The file that is expected, in the folder where torch keeps downloads and torch-fidelity its Inception."""
        return Path(torch.hub.get_dir()) / "checkpoints" / f"{self.timm_name}.safetensors"

    @property
    def address(self) -> str:
        """Where the file comes from."""
        return f"https://huggingface.co/timm/{self.timm_name}/resolve/main/model.safetensors"


KNOWN = {
    # 224 px in the paper that proposed it (arXiv:2306.04675) and in EDM2; timm's own size is 518.
    "dinov2": KnownNetwork("vit_large_patch14_dinov2.lvd142m", 224),
    "mae": KnownNetwork("vit_large_patch16_224.mae"),
    "siglip": KnownNetwork("vit_so400m_patch16_siglip_256.v2_webli"),
    "clip": KnownNetwork("vit_large_patch14_clip_224.openai"),
    "convnext": KnownNetwork("convnextv2_base.fcmae_ft_in22k_in1k"),
}
"""The feature spaces beside Inception of the ratio FDr-6 (arXiv:2604.28190), at each network's own size."""

EXTRACTOR_FORMS = (
    *("inception", "inception:PATH", "inception-clean", "pixels", "pixels:SIDE", "digits", "digits-rotation"),
    *(f"{name}[@SIDE]" for name in KNOWN),
    "timm:MODEL[@SIDE]:PATH",
)


def split_extractors(specs: str) -> dict[str, str]:
    """Split a list of extractors at its commas.

    Args:
        specs: Names as :func:`make_extractor` takes them, such as ``inception,dinov2,pixels:16``.

    Returns:
        The name of each by a short one for reports: what stands before the colon; the network for ``timm:``.

    Raises:
        ConfigError: If there is none, or two have the same short name.
    """
    found: dict[str, str] = {}
    for spec in [part.strip() for part in specs.split(",")]:
        kind, _, argument = spec.partition(":")
        short = argument.partition(":")[0] if kind == "timm" else kind
        if not spec or short in found:
            reason = f"{short} twice" if spec else "an empty name"
            raise ConfigError(f"--extractors {specs!r} holds {reason}; give different ones, separated by commas")
        found[short] = spec
    return found


def make_extractor(spec: str, *, cache_dir: Path | None = None) -> FeatureExtractor:
    """Create a feature extractor from its name on the command line.

    Args:
        spec: ``inception`` or ``inception:PATH`` (weights file), ``inception-clean`` with clean-fid's resizing;
            ``pixels`` or ``pixels:SIDE`` (areas per side); ``digits``, ``digits-rotation``; a name of :data:`KNOWN`;
            ``timm:MODEL:PATH``. ``NAME@SIDE`` is for images of another size than the network's own, such as
            ``timm:vit_large_patch14_dinov2@224:dinov2.safetensors``.
        cache_dir: Folder where extractors of digits cache their trained weights; None trains them each time.

    Returns:
        The extractor, on the CPU.

    Raises:
        ConfigError: If the name is unknown, an argument is missing or wrong, or a package is not installed.
        MissingFileError: If the weights are missing.
        CheckpointError: If the weights file is damaged or of another network.
    """
    kind, colon, argument = spec.partition(":")
    if colon and not argument:
        raise ConfigError(f"extractor {spec!r} ends in a colon; known: {', '.join(EXTRACTOR_FORMS)}")
    if kind in ("inception", "inception-clean"):
        try:
            return InceptionExtractor(argument or None, clean=kind == "inception-clean")
        except (ConfigError, MissingFileError) as error:
            raise type(error)(f"{error}; or compare pixels, which needs no weights: --extractors pixels") from None
    if kind == "pixels":
        return PixelExtractor(_side(argument, spec)) if argument else PixelExtractor()
    if kind in ("digits", "digits-rotation"):
        if argument:
            raise ConfigError(f"extractor {spec!r}: {kind} takes no argument")
        # Imported here, since data modules import Lightning, which the other extractors do not need.
        if kind == "digits":
            from jitflow.evaluation.digits_features import DigitsExtractor

            return DigitsExtractor(cache_dir)
        from jitflow.evaluation.rotation_features import RotationExtractor

        return RotationExtractor(cache_dir)
    if kind == "timm":
        return _of_timm(*parse_timm_spec(argument))
    if kind.partition("@")[0] in KNOWN:
        return _known(kind, argument, spec)
    names = ("inception", "inception-clean", "pixels", "digits", "digits-rotation", "timm", *KNOWN)
    raise unknown_name("extractor", kind, names, hint=f"Forms: {', '.join(EXTRACTOR_FORMS)}.")


def _known(kind: str, argument: str, spec: str) -> FeatureExtractor:
    """Create the extractor of a known network, from its file in the one folder or from another."""
    name, at, side = kind.partition("@")
    network = KNOWN[name]
    if not argument and not network.path.is_file():
        raise MissingFileError(
            f"the weights of {name}, {network.path}, are missing, and jitflow never downloads them; "
            f"get {network.address} and put it there under that name"
        )
    size_px = _side(side, spec) if at else network.img_size
    return _of_timm(network.timm_name, size_px, argument or str(network.path))


def _of_timm(name: str, size_px: int | None, path: str) -> FeatureExtractor:
    from jitflow.evaluation.timm_features import TimmExtractor

    return TimmExtractor(name, path, img_size=size_px)


def _side(text: str, spec: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"extractor {spec!r}: {text!r} is no whole number of pixels or areas")
    return int(text)
