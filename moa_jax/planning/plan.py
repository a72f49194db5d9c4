"""The plan of a run: what the run would cost, for each way to lay it out over the chips.

The times are what arithmetic, memory traffic and links need at least, each at the maker's peak
figures. The largest of them bounds the speed from above: real runs are slower. Nothing was measured
on hardware.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from moa_jax.config import Config, MeshConfig
from moa_jax.errors import InputError
from moa_jax.planning.programs import Drawing, Program, sampling_programs, training_program
from moa_jax.planning.topology import topology_chip, topology_devices
from moa_jax.planning.usage import Usage, in_turn, measure
from moa_jax.training.chips import GIB, Chip
from moa_jax.training.mesh import PRESETS, make_mesh

CODE = 0.5 * GIB  # kept free for the machine code; that of the full-size step takes 0.42 GiB

OnCompile = Callable[[str], None]  # told what is compiled next; that takes minutes at full size


@dataclass(frozen=True)
class Plan:
    """What a program would take in one layout over the chips.

    Attributes:
        title: name of the layout.
        devices: number of devices that it runs on.
        images: number of pictures in one run, on all devices together.
        runs: how often it runs; for a training, the number of steps.
        chip: what one device can do; None means that its kind is not listed.
        largest: estimate of the most pictures per device that fit; None means not estimated.
    """

    title: str
    usage: Usage
    devices: int
    images: int
    runs: int
    chip: Chip | None
    largest: int | None = None

    @property
    def limit(self) -> float | None:
        """Bytes of memory that a device has; None means not known."""
        return self.chip.memory if self.chip else None

    @property
    def room(self) -> float | None:
        """Bytes that remain for the machine code, which the compiler has yet to write."""
        return None if self.limit is None else self.limit - self.usage.memory

    @property
    def fits(self) -> bool:
        """Whether the program fits into the device's memory, as far as that is known."""
        return self.usage.fits and (self.room is None or self.room >= 0)

    @property
    def seconds(self) -> float | None:
        """Seconds that one run needs at least."""
        if self.chip is None or not self.fits:
            return None
        return max(self.usage.times(self.chip).values())

    @property
    def hours(self) -> float | None:
        """Hours that all runs need at least."""
        return None if self.seconds is None else self.seconds * self.runs / 3600

    def remedies(self, remat: bool) -> str:
        """Say what to change to make a program fit.

        Args:
            remat: whether it already recomputes its blocks.
        """
        weights = sum(size for name, size in self.usage.parts.items() if name != "batch")
        found = ["train.batch_size smaller, or optimizer.accumulation larger"]
        if not remat:
            found.insert(0, "model.remat=true")
        # fsdp splits the weights over the devices, so it helps where they take much of the memory.
        if weights > 0.3 * self.usage.memory and self.devices > 1:
            found.insert(0, "mesh.preset=fsdp")
        return "; ".join(found)


def plan_training(
    config: Config,
    topology: str,
    presets: Sequence[str | None],
    on_compile: OnCompile = lambda what: None,
    largest: bool = True,
) -> list[Plan]:
    """Compile the training step for a TPU topology, for each preset.

    Args:
        topology: see `topology_devices`.
        presets: names of mesh presets; None means the mesh of the configuration.
        largest: whether to estimate the largest batch that fits, by a second compilation.

    Raises:
        InputError: libtpu is missing, there is no such topology, or a mesh or the batch does not
            suit it.
    """
    devices = topology_devices(topology)
    plans = []
    for preset in presets:
        mesh = config.mesh if preset is None else MeshConfig(preset=preset)
        laid = dataclasses.replace(config, mesh=mesh)
        title = preset or mesh.preset or "the configuration's own"
        usages = {}
        for batch in _batches(laid, len(devices), largest):
            on_compile(f"{title}, {batch // len(devices)} pictures a device")
            usages[batch] = measure(partial(_step_on, topology, laid, batch))
        plans.append(_plan_step(title, usages, devices, config.train.steps))
    return plans


def _batches(config: Config, devices: int, largest: bool) -> list[int]:
    """Give the run's batch size, and half of it to see how much one picture adds."""
    whole, parts = config.train.batch_size, devices * config.optimizer.accumulation
    half = whole // 2 // parts * parts  # devices and micro-batches must still divide it
    return [whole, half] if largest and half else [whole]


def _plan_step(title: str, usages: Mapping[int, Usage], devices: Sequence[Any], steps: int) -> Plan:
    chip, (batch, *smaller) = topology_chip(devices[0]), usages
    plan = Plan(title, usages[batch], len(devices), batch, steps, chip)
    if chip is None or chip.memory is None or not smaller:
        return plan
    more, fewer = ((each // len(devices), usages[each]) for each in usages)
    return dataclasses.replace(plan, largest=largest_batch(chip.memory - CODE, fewer, more))


def _step_on(topology: str, config: Config, batch: int) -> Program:
    """Make the step for a batch of this size; the compiler's process runs this."""
    run = dataclasses.replace(config.train, batch_size=batch)
    mesh = make_mesh(config.mesh, topology_devices(topology))
    return training_program(dataclasses.replace(config, train=run), mesh)


def largest_batch(limit: float, fewer: tuple[int, Usage], more: tuple[int, Usage]) -> int | None:
    """Estimate how many pictures a device can take: memory is nearly linear in them.

    Args:
        limit: bytes of memory that the program may take.
        fewer: pictures per device, and what they need.
        more: the same for a larger batch, which need not fit.

    Returns:
        Pictures per device; None if the two usages say nothing, because a very small program may
        need more memory for fewer pictures.
    """
    slope = (more[1].memory - fewer[1].memory) / (more[0] - fewer[0])
    return max(0, int(fewer[0] + (limit - fewer[1].memory) / slope)) if slope > 0 else None


def check_presets(names: str) -> list[str | None]:
    """Read `--plan-presets`: names separated by commas, or "all".

    Raises:
        InputError: there is no such preset.
    """
    known = [preset for preset in PRESETS if preset is not None]
    chosen = known if names == "all" else [name for name in names.split(",") if name]
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(f"--plan-presets {','.join(unknown)}: must be of {', '.join(known)}, all")
    return [*chosen] or [None]  # None means the mesh of the configuration


def plan_sampling(topology: str, drawing: Drawing) -> Plan:
    """Compile the drawing of some pictures for one device of a TPU topology.

    Raises:
        InputError: libtpu or a file is missing, or the topology or the drawing is not possible.
    """
    devices = topology_devices(topology)[:1]
    programs = sampling_programs(drawing, make_mesh(MeshConfig(), devices))
    parts = [
        (measure(partial(_drawing_on, topology, drawing, place)), program.runs)
        for place, program in enumerate(programs)
    ]
    chip = topology_chip(devices[0])
    return Plan("one device", in_turn(parts), 1, drawing.num_images, 1, chip)


def _drawing_on(topology: str, drawing: Drawing, place: int) -> Program:
    """Make one of the programs that draw; the compiler's process runs this."""
    mesh = make_mesh(MeshConfig(), topology_devices(topology)[:1])
    return sampling_programs(drawing, mesh)[place]
