"""Create feature extractors by name, for command lines."""

from __future__ import annotations

from pathlib import Path

from jitflow.errors import ConfigError, MissingFileError, unknown_name
from jitflow.evaluation.features import FeatureExtractor, InceptionExtractor, PixelExtractor

EXTRACTOR_FORMS = ("inception", "inception:PATH", "pixels", "pixels:SIDE", "digits", "timm:MODEL[@SIDE]:PATH")


def make_extractor(spec: str, *, cache_dir: Path | None = None) -> FeatureExtractor:
    """Create a feature extractor from its name on the command line.

    Args:
        spec: ``inception`` or ``inception:PATH`` (weights file); ``pixels`` or ``pixels:SIDE`` (areas per side);
            ``digits``; ``timm:MODEL:PATH``, with ``MODEL@SIDE`` for images of another size than the model's own, such
            as ``timm:vit_large_patch14_dinov2@224:dinov2.safetensors``.
        cache_dir: Folder where ``digits`` caches its trained weights; None trains them each time.

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
    if kind == "inception":
        try:
            return InceptionExtractor(argument or None)
        except (ConfigError, MissingFileError) as error:
            raise type(error)(f"{error}; or compare pixels, which needs no weights: --extractor pixels") from None
    if kind == "pixels":
        return PixelExtractor(_side(argument, spec)) if argument else PixelExtractor()
    if kind == "digits":
        if argument:
            raise ConfigError(f"extractor {spec!r}: digits takes no argument")
        # Imported here, since data modules import Lightning, which the other extractors do not need.
        from jitflow.evaluation.digits_features import DigitsExtractor

        return DigitsExtractor(cache_dir)
    if kind == "timm":
        # A path may contain colons; a timm name does not.
        model, _, path = argument.partition(":")
        model_name, at, side = model.partition("@")
        if not model_name or not path:
            raise ConfigError(f"extractor {spec!r} must be timm:MODEL:PATH; jitflow reads weights from a file only")
        from jitflow.evaluation.timm_features import TimmExtractor

        return TimmExtractor(model_name, path, img_size=_side(side, spec) if at else None)
    raise unknown_name(
        "extractor", kind, ("inception", "pixels", "digits", "timm"), hint=f"Forms: {', '.join(EXTRACTOR_FORMS)}."
    )


def _side(text: str, spec: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"extractor {spec!r}: {text!r} is no whole number of pixels or areas")
    return int(text)
