"""What moves between chip and memory, counted from text, and of programs compiled for a TPU."""

import pytest

from moa_jax.planning.hlo import parse
from moa_jax.planning.traffic import memory_traffic
from tests.planning import makers
from tests.planning.conftest import libtpu

LARGE, SLICE = 4096 * 1024 * 4, 16 * 1024 * 4  # bytes of f32[4096,1024] and f32[16,1024]

# What the computations that fusions call take of a parameter, and how.
FUSED = """\
%all (p: f32[4096,1024]) -> f32[4096,1024] {
  %p = f32[4096,1024]{1,0:T(8,128)} parameter(0), metadata={op_name="x"}
  ROOT %n = f32[4096,1024]{1,0:T(8,128)} negate(%p)
}

%some (p.1: f32[4096,1024], at: s32[]) -> f32[16,1024] {
  %p.1 = f32[4096,1024]{1,0:T(8,128)} parameter(0)
  %at = s32[]{:T(128)} parameter(1)
  %same = f32[4096,1024]{1,0:T(8,128)} bitcast(%p.1)
  %rows = f32[16,1024]{1,0:T(8,128)} dynamic-slice(%same, %at, %at), dynamic_slice_sizes={16,1024}
  ROOT %n.1 = f32[16,1024]{1,0:T(8,128)} negate(%rows)
}

%within (p.2: f32[4096,1024], at.1: s32[]) -> f32[16,1024] {
  %p.2 = f32[4096,1024]{1,0:T(8,128)} parameter(0)
  %at.1 = s32[]{:T(128)} parameter(1)
  ROOT %inner = f32[16,1024]{1,0:T(8,128)} fusion(%p.2, %at.1), kind=kLoop, calls=%some
}

%change (p.3: f32[4096,1024], new: f32[16,1024], at.2: s32[]) -> f32[4096,1024] {
  %p.3 = f32[4096,1024]{1,0:T(8,128)} parameter(0)
  %new = f32[16,1024]{1,0:T(8,128)} parameter(1)
  %at.2 = s32[]{:T(128)} parameter(2)
  %put = f32[4096,1024]{1,0:T(8,128)} dynamic-update-slice(%p.3, %new, %at.2, %at.2)
  ROOT %as = f32[4096,1024]{1,0:T(8,128)} bitcast(%put)
}

"""
ENTRY = """\
ENTRY %main (x: f32[4096,1024], y: f32[16,1024], i: s32[]) -> f32[4096,1024] {{
  %x = f32[4096,1024]{{1,0:T(8,128)}} parameter(0)
  %near = f32[4096,1024]{{1,0:T(8,128)S(1)}} parameter(1)
  %y = f32[16,1024]{{1,0:T(8,128)S(1)}} parameter(2)
  %i = s32[]{{:T(128)S(6)}} parameter(3)
  ROOT {line}
}}
"""
WHOLE, NEAR = "f32[4096,1024]{1,0:T(8,128)}", "f32[4096,1024]{1,0:T(8,128)S(1)}"
ROWS, NEAR_ROWS = "f32[16,1024]{1,0:T(8,128)}", "f32[16,1024]{1,0:T(8,128)S(1)}"


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        (f"%f = {WHOLE} fusion(%x), kind=kLoop, calls=%all", 2 * LARGE),
        (f"%f = {NEAR} fusion(%x), kind=kLoop, calls=%all", LARGE),
        (f"%f = {NEAR} fusion(%near), kind=kLoop, calls=%all", 0),
        (f"%f = {ROWS} fusion(%x, %i), kind=kLoop, calls=%some", 2 * SLICE),
        (f"%f = {ROWS} fusion(%x, %i), kind=kLoop, calls=%within", 2 * SLICE),
        (f"%f = {ROWS} fusion(%near, %i), kind=kLoop, calls=%some", SLICE),
        (f"%f = {WHOLE} fusion(%x, %y, %i), kind=kLoop, calls=%change", SLICE),
        (f"%f = {ROWS} dynamic-slice(%x, %i, %i), dynamic_slice_sizes=", 2 * SLICE),
        (f"%f = {ROWS} slice(%near), slice=", SLICE),
        (f"%f = {WHOLE} dynamic-update-slice(%x, %y, %i, %i)", SLICE),
        (f"%f = ({NEAR}, {WHOLE}, u32[]{{:S(2)}}) copy-start(%x)", LARGE),
        (f"%f = {NEAR} copy-done(%x)", 0),
        (f"%f = (({WHOLE}), {NEAR_ROWS}, s32[]{{:S(2)}}) slice-start(%x), slice=", SLICE),
        (f"%f = (({WHOLE}), {ROWS}, s32[]{{:S(2)}}) slice-start(%x), slice=", 2 * SLICE),
        (f"%f = (({NEAR}), {ROWS}, s32[]{{:S(2)}}) slice-start(%near), slice=", SLICE),
        (f"%f = {ROWS} slice-done(%x)", 0),
        (f"%f = {WHOLE} bitcast(%x)", 0),
        (f'%f = {NEAR} custom-call(%x, %x), custom_call_target="ConcatBitcast"', 0),
        (f'%f = {NEAR} custom-call(%x, %y), custom_call_target="tpu_custom_call"', LARGE),
        (
            f"%f = {WHOLE} fusion(%x), kind=kCustom, output_to_operand_aliasing={{{{}}: (0, {{}})}}"
            ", calls=%all",
            0,
        ),
    ],
)
def test_an_operation_moves_what_lies_in_memory(line, moved):
    assert memory_traffic(parse(FUSED + ENTRY.format(line=line))) == moved


@libtpu
def test_a_program_for_a_tpu_moves_each_array_once(measured):
    assert measured(makers.doubled).bytes == 2 * 4096 * 8192 * 4


@libtpu
def test_weights_that_come_in_slices_move_once(measured):
    """XLA writes an asynchronous slice in two ways: as one operation, and as a computation."""
    text = makers.sliced().lower().compile().as_text()
    assert "slice-start(" in text
    # The first argument is copied twice: at the end of a run too, for the next run.
    moved = (makers.LAYERS * 1024 * 1024 + 3 * 8192 * 1024) * 2
    assert memory_traffic(parse(text)) == measured(makers.sliced).bytes == moved


@libtpu
def test_each_turn_of_a_loop_moves_its_results(measured):
    """The last of nine results need not be written twice, nor the weight read each time."""
    usage = measured(makers.looped)
    results = 9 * 256 * 512 * 4
    assert results <= usage.bytes <= 12 * results
    assert usage.flops == 9 * 2 * 256 * 512 * 512
