"""Which device holds which expert, decided from routing that was recorded.

Nothing here computes a layer. A placement is carried out by `arrange`, which sorts the experts of a
layer of `moa_jax.mixtures.parallel`: there a device holds those that stand side by side.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from moa_jax.errors import InputError

Choices = Int[np.ndarray, "L P"]  # the expert of every pixel, by layer
Flows = Int[np.ndarray, "_ E E"]  # pixels of one expert in a layer and another in the next


def choices(routing: Sequence[Float[np.ndarray, "B _ _ E"]]) -> Choices:
    """Tell the expert of greatest weight, of every pixel in every layer.

    Args:
        routing: as the layers sow it, in their order. A pixel of a coarse layer stands for all fine
            pixels that it covers.
    """
    rows, columns = (max(layer.shape[axis] for layer in routing) for axis in (1, 2))
    found = []
    for layer in routing:
        best = np.argmax(layer, axis=-1)
        for axis, size in ((1, rows), (2, columns)):
            best = np.repeat(best, size // best.shape[axis], axis=axis)
        found.append(best.reshape(-1))
    return np.stack(found)


def flows(chosen: Choices, experts: int) -> Flows:
    """Count the pixels that go from one expert to another between a layer and the next."""
    counts = np.zeros((len(chosen) - 1, experts, experts), int)
    for layer, (before, after) in enumerate(zip(chosen, chosen[1:], strict=False)):
        np.add.at(counts[layer], (before, after), 1)
    return counts


def cost(
    placement: Int[np.ndarray, "L E"], chosen: Choices, devices: int, travel: float = 1.0
) -> float:
    """Say what a placement costs: the fullest device of every layer, and the pixels that travel.

    Args:
        placement: the device of every expert, by layer.
        travel: cost of a pixel that changes its device, in that of a pixel which waits.
    """
    places = np.take_along_axis(placement, chosen, axis=1)
    fullest = sum(np.bincount(layer, minlength=devices).max() for layer in places)
    return float(fullest + travel * np.sum(places[1:] != places[:-1]))


def place(
    chosen: Choices, experts: int, devices: int, travel: float = 1.0, seconds: float = 60.0
) -> Int[np.ndarray, "L E"]:
    """Place experts so that devices have like loads, and pixels seldom change their device.

    Which expert a pixel takes in a layer says much about the one that it takes in the next. An
    integer program puts such experts on one device, and popular ones on different devices.

    Equation: minimize sum_l max_d sum_e n_le x_led + travel sum_l sum_ef n_lef (1 - sum_d y_lefd),
        over x in {0, 1} and y <= x_led, y <= x_(l+1)fd; each expert has one device, and each device
        E / devices experts of a layer. n counts pixels.
    Source: MoETuner, from the abstract: an integer program for load and for the dependence of
        routing on the layer before.
    Left out: its two stages, clusters first and devices after them, and links of different speed;
        a single program decides both here.

    Args:
        chosen: recorded routing, see `choices`.
        experts: of a layer; the devices divide them.
        travel: see `cost`.
        seconds: after which the best placement so far is taken.

    Returns:
        The device of every expert, by layer.

    Raises:
        InputError: the experts cannot be shared out evenly, or no placement was found in time.
    """
    if experts % devices:
        raise InputError(f"devices={devices}: must divide experts={experts}")
    program = _Program(len(chosen), experts, devices)
    program.name_devices()
    for layer in range(program.layers):
        program.share_out(layer)
        program.bound_load(layer, np.bincount(chosen[layer], minlength=experts))
    for layer, flow in enumerate(flows(chosen, experts)):
        program.keep_together(layer, travel * flow)
    return program.solve(seconds)


class _Program:
    """An integer program: variables x (layer, expert, device), the layers' bounds, and then y."""

    def __init__(self, layers: int, experts: int, devices: int) -> None:
        self.layers, self.experts, self.devices = layers, experts, devices
        self.x = np.arange(layers * experts * devices).reshape(layers, experts, devices)
        self.costs = [0.0] * self.x.size + [1.0] * layers  # the fullest device of every layer
        self.rows: list[tuple[list[tuple[int, float]], float, float]] = []

    def share_out(self, layer: int) -> None:
        for variables in self.x[layer]:
            self.rows.append(([(v, 1.0) for v in variables], 1, 1))
        for variables in self.x[layer].T:
            each = self.experts // self.devices
            self.rows.append(([(v, 1.0) for v in variables], each, each))

    def name_devices(self) -> None:
        # Devices are alike: expert e of the first layer is on one of the first e + 1.
        for expert in range(self.devices):
            for variable in self.x[0, expert, expert + 1 :]:
                self.rows.append(([(variable, 1.0)], 0, 0))

    def bound_load(self, layer: int, load: Int[np.ndarray, " E"]) -> None:
        for variables in self.x[layer].T:
            terms = list(zip(variables, load, strict=True))
            self.rows.append(([*terms, (self.x.size + layer, -1.0)], -np.inf, 0))

    def keep_together(self, layer: int, flow: Float[np.ndarray, "E E"]) -> None:
        for before, after in np.argwhere(flow):
            for device in range(self.devices):
                together = len(self.costs)
                self.costs.append(-flow[before, after])
                for x in (self.x[layer, before, device], self.x[layer + 1, after, device]):
                    self.rows.append(([(together, 1.0), (x, -1.0)], -np.inf, 0))

    def solve(self, seconds: float) -> Int[np.ndarray, "L E"]:
        entries = [(row, *term) for row, (terms, _, _) in enumerate(self.rows) for term in terms]
        rows, columns, values = zip(*entries, strict=True)
        size = (len(self.rows), len(self.costs))
        matrix = coo_array((values, (rows, columns)), shape=size).tocsr()
        least, most = (np.array([row[side] for row in self.rows]) for side in (1, 2))
        highest = np.ones(size[1])
        highest[self.x.size : self.x.size + self.layers] = np.inf
        found = milp(
            np.array(self.costs),
            integrality=np.arange(size[1]) < self.x.size,
            bounds=Bounds(0, highest),
            constraints=LinearConstraint(matrix, least, most),
            options={"time_limit": seconds},
        )
        if found.x is None:
            raise InputError(f"seconds={seconds}: no placement was found; give more")
        return np.argmax(found.x[self.x], axis=-1)


def arrange(layer: Any, placement: Int[np.ndarray, " E"]) -> Any:
    """Sort the experts of a layer by their device; the layer computes what it did.

    Args:
        layer: as `moa_jax.mixtures.parallel` has it.
        placement: the device of every expert.
    """
    import jax

    order = np.argsort(placement, kind="stable")
    experts = jax.tree.map(lambda leaf: leaf[order], layer["experts"])
    return {"router": layer["router"][:, order], "experts": experts}
