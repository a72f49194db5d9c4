"""A recognizer that needs no network: a person is the mean colour of a picture."""

import numpy as np

from moa_jax.faces.recognizer import Face


class Colours:
    """Finds one face in every picture, its left half, and a second one if asked."""

    licence, source, same_person = "CC0", "the tests", 0.2

    def __init__(self, faces=1, name="colours"):
        self.faces, self.name = faces, name

    def find(self, image):
        points = np.zeros((5, 2))
        width, height = image.size
        step = width / max(self.faces, 1)
        return [
            Face((i * step, 0.0, (i + 1) * step, float(height)), points, 1.0)
            for i in range(self.faces)
        ]

    def embed(self, image, faces):
        pixels = np.asarray(image, np.float32)
        cut = [pixels[:, int(f.box[0]) : int(f.box[2])].mean(axis=(0, 1)) - 128 for f in faces]
        vectors = np.array(cut, np.float32).reshape(len(faces), 3) + 1e-3
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
