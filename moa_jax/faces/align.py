"""Turn a face upright and cut it out, as networks that were trained on such cut-outs expect it.

The picture is turned, scaled and moved so that five points of the face come to lie on those of a
template, as near as a similarity transform can bring them.
"""

import numpy as np
from jaxtyping import Float
from PIL import Image

from moa_jax.faces.recognizer import Face

SIZE = 112  # pixels, of the template
# Where ArcFace's training pictures have the eyes, the nose and the corners of the mouth.
# Source: Deng et al., "ArcFace" (arXiv 1801.07698), the released preprocessing.
TEMPLATE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)


def aligned(image: Image.Image, face: Face) -> Image.Image:
    """Cut a face out of an RGB picture, upright, SIZE pixels wide and high.

    Points that the detector does not give are left out; what lies outside of the picture is black.
    """
    known = np.isfinite(face.points).all(axis=1)
    # As near as can be on the template, where an error is as large for every face.
    turn = similarity(face.points[known], TEMPLATE[known])
    back = np.linalg.inv(np.vstack([turn, (0, 0, 1)]))[:2]  # Pillow asks where a pixel comes from
    # A pixel's centre is at a half for Pillow, but at a whole number in the points of faces.
    back[:, 2] += 0.5 - back[:, :2] @ (0.5, 0.5)
    return image.transform(
        (SIZE, SIZE), Image.Transform.AFFINE, tuple(back.ravel()), Image.Resampling.BILINEAR
    )


def similarity(
    source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "2 3"]:
    """Find the rotation, scale and shift that bring points nearest to others, in least squares.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point
    patterns" (1991). In the plane, a rotation with a scale is a complex factor.

    Returns:
        A matrix that maps (x, y, 1) of the source near to (x, y) of the target.
    """
    one, other = (points[:, 0] + 1j * points[:, 1] for points in (source, target))
    middle = one.mean()
    factor = np.vdot(one - middle, other - other.mean()) / np.vdot(one - middle, one - middle)
    shift = other.mean() - factor * middle
    return np.array(
        [
            (factor.real, -factor.imag, shift.real),
            (factor.imag, factor.real, shift.imag),
        ]
    )
