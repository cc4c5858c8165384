"""A picture in grey under a heat map in colour."""

import numpy as np
from PIL import Image

COLOURS = "inferno"  # matplotlib's name of the colour scale: 0 is dark, 1 is light, for every eye
_SHARE = 0.6  # of the colour


def overlay(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    """The picture, coloured by how much of something there is at each place.

    Args:
        picture: of any size and mode.
        heat: [h, w] in 0..1, of any size: it is smoothed to the picture's. What lies outside is taken for the nearest, no number for 0.

    Returns:
        An RGB picture of the same size.

    Raises:
        ValueError: the heat is no map.
    """
    from matplotlib import colormaps

    heat = np.asarray(heat, dtype=np.float32)
    if heat.ndim != 2 or 0 in heat.shape:
        raise ValueError(f"heat: expected a map [height, width], got an array of shape {list(heat.shape)}")
    heat = np.clip(np.nan_to_num(heat, nan=0.0), 0, 1)
    smooth = np.asarray(Image.fromarray(heat).resize(picture.size, Image.Resampling.BICUBIC))
    colours = colormaps[COLOURS](np.clip(smooth, 0, 1))[..., :3] * 255
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    return Image.fromarray(np.round(_SHARE * colours + (1 - _SHARE) * grey).astype(np.uint8))
