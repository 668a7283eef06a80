"""Describe a PreprocessSpec in plain English, one line per step, in order."""

from __future__ import annotations

from tidegate.service.imaging.spec import (
    CentreCrop,
    CentreCropFraction,
    Grey,
    Pad,
    PreprocessSpec,
    Resize,
    ResizeKeepRatio,
    ResizeShortestEdge,
    Step,
)

_BACKENDS = {
    "pillow": "antialiased, by Pillow",
    "torch": "antialiased, by torch on uint8 tensors",
    "cv2": "as by OpenCV",
}
_DECODERS = {"pillow": "Pillow", "nvjpeg": "nvJPEG (colour JPEGs) and Pillow (all else)"}
_ALPHA = {
    "drop": "is dropped",
    "composite-white": "is composited on white",
    "composite-black": "is composited on black",
}
_SIXTEEN_BIT = {"scale": "scaled to 8", "clip": "clipped to 8 as Pillow does"}
_ROUNDING = {"truncate": "truncated", "round": "rounded"}
_LUMINANCE = {"pillow": "Pillow computes it", "cv2": "OpenCV computes it"}
_OFFSET = {
    "floor": "half a pixel is rounded down",
    "ceil": "half a pixel is rounded up",
    "half-even": "half a pixel is rounded to the even side",
}


def describe(spec: PreprocessSpec) -> list[str]:
    """Return the lines: decoding, each step, and the network's input."""
    return [_decoding(spec), *map(_step, spec.steps), _floats(spec)]


def _decoding(spec: PreprocessSpec) -> str:
    turned = "applied" if spec.exif_orientation == "apply" else "ignored"
    return (
        f"Decode with {_DECODERS[spec.decoder]}; the EXIF orientation is {turned} and colour "
        f"profiles are ignored; transparency {_ALPHA[spec.alpha]}; 16 bits are "
        f"{_SIXTEEN_BIT[spec.sixteen_bit]}; grey "
        "is replicated to three channels."
    )


def _step(step: Step) -> str:
    match step:
        case Resize():
            return (
                f"Resize to {step.height} × {step.width} pixels (height × width), "
                f"{step.filter}, {_BACKENDS[step.backend]}."
            )
        case ResizeShortestEdge():
            return (
                f"Resize the shorter side to {step.size} pixels, {step.filter}, "
                f"{_BACKENDS[step.backend]}; the longer side keeps the aspect ratio and is "
                f"{_ROUNDING[step.rounding]}."
            )
        case ResizeKeepRatio():
            fits = "fits into" if step.fit == "inside" else "covers"
            return (
                f"Resize with the aspect ratio kept, so that the image {fits} {step.height} × "
                f"{step.width} pixels (height × width), {step.filter}, "
                f"{_BACKENDS[step.backend]}; the sides are {_ROUNDING[step.rounding]}."
            )
        case Pad():
            return (
                f"Centre on a canvas of {step.height} × {step.width} pixels (height × width) of "
                f"the colour {', '.join(map(str, step.colour))}; a larger image is cut, "
                f"{_OFFSET[step.offset]}."
            )
        case Grey():
            return f"Replace the colours by the luminance, as {_LUMINANCE[step.backend]}."
        case CentreCrop():
            return (
                f"Crop the centre to {step.height} × {step.width} pixels (height × width); "
                f"{_OFFSET[step.offset]}; a smaller image is padded with black."
            )
        case CentreCropFraction():
            return (
                f"Crop a centred square of {step.numerator}/{step.denominator} of the shorter "
                f"side; {_OFFSET[step.offset]}."
            )


def _floats(spec: PreprocessSpec) -> str:
    order = {"rgb": "red, green, blue", "bgr": "blue, green, red"}[spec.channel_order]
    return (
        f"The network's input is (pixel × {spec.scale:.6g} − mean) / std in the order {order}, "
        f"mean {_triple(spec.mean)}, std {_triple(spec.std)}, computed in the sealed graph."
    )


def _triple(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
