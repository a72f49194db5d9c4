"""A compiled program's text, as compilers write it, and of small programs compiled here."""

import jax
import jax.numpy as jnp
import pytest

from moa_jax.planning.collectives import collectives
from moa_jax.planning.hlo import HBM, parse

TPU_TEXT = """\
HloModule jit_f, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%all-reduce-scatter (input: bf16[1024,2048]) -> bf16[256,2048] {
  %input = bf16[1024,2048]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.3 = bf16[1024,2048]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=5
  ROOT %slice = bf16[256,2048]{1,0:T(8,128)(2,1)} slice(%all-reduce.3), slice={[0:256], [0:2048]}
}

%begins (part: bf16[2,128]) -> bf16[16,128] {
  %part = bf16[2,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.7 = bf16[16,128]{1,0:T(8,128)(2,1)} all-gather(%part), channel_id=7
}

%goes_on (part.1: bf16[2,128]) -> bf16[16,128] {
  %part.1 = bf16[2,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.8 = bf16[16,128]{1,0:T(8,128)(2,1)} all-gather(%part.1), channel_id=7
}

%less (at: (s32[], f32[4])) -> pred[] {
  %at = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %turn = s32[]{:T(128)} get-tuple-element(%at), index=0
  %turns = s32[]{:T(128)} constant(5)
  ROOT %compare = pred[]{:T(512)} compare(%turn, %turns), direction=LT
}

%body (at.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %at.1 = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %value = f32[4]{0:T(128)} get-tuple-element(%at.1), index=1
  %sum = f32[4]{0:T(128)} all-reduce(%value), channel_id=9, metadata={op_name="jit(f)/psum" id=3}
  ROOT %next = (s32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%turn.1, %sum)
}

ENTRY %main.1_spmd (param: bf16[256,2048], param.1: bf16[1024,1024]) -> bf16[] {
  %param.1 = bf16[256,2048]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="all-gather (no)"}
  %all-gather.6 = bf16[1024,2048]{1,0:T(8,128)(2,1)S(1)} all-gather(%param.1), channel_id=2
  %ag-start = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%param.2), channel_id=3
  %ag-done = f32[8,4]{1,0} all-gather-done(%ag-start), channel_id=3
  %fusion = bf16[256,2048]{1,0} fusion(%all-gather.6), kind=kCustom, calls=%all-reduce-scatter
  %starts = bf16[16,128]{1,0} fusion(%part.2), kind=kCustom, calls=%begins
  %beside = bf16[16,128]{1,0} fusion(%part.2), kind=kCustom, calls=%goes_on
  %loop = (s32[]{:T(128)}, f32[4]{0:T(128)}) while(%start), condition=%less, body=%body
  ROOT %all-reduce = (f32[], s32[3]{0}) all-reduce(%a, %b), channel_id=4, to_apply=%region_0.0.clone
}
"""


@pytest.fixture(scope="module")
def module():
    return parse(TPU_TEXT)


def test_an_array_is_padded_to_tiles_and_lies_in_a_memory(module):
    entry = module.computations[module.entry]
    gathered = entry["all-gather.6"].arrays[0]
    assert (gathered.dtype, gathered.shape, gathered.space) == ("bf16", (1024, 2048), 1)
    assert gathered.bytes == gathered.content == 1024 * 2048 * 2
    small = module.computations["begins"]["part"].arrays[0]
    assert (small.content, small.bytes, small.space) == (2 * 128 * 2, 8 * 128 * 2, HBM)
    turn, value = module.computations["less"]["at"].arrays
    assert (turn.shape, turn.bytes) == ((), 4)
    assert (value.shape, value.bytes) == ((4,), 128 * 4)
    transposed = parse(
        "ENTRY %e (a: f32[]) -> f32[] {\n  %a = f32[3,5,8]{0,2,1:T(4,128)} iota()\n}"
    )
    assert transposed.computations["e"]["a"].arrays[0].held == (128, 5, 8)


def test_operations_have_operands_and_the_computations_that_they_call(module):
    loop = module.computations[module.entry]["loop"]
    assert (loop.kind, loop.operands, loop.root) == ("while", ("start",), False)
    assert loop.called("body") == ["body"] and loop.called("calls") == []
    assert module.computations[module.entry]["all-reduce"].root


def test_a_loop_runs_as_often_as_its_condition_says(module):
    assert module.turns["body"] == 5 and module.turns["begins"] == 1
    assert "begins" not in module.scheduled and module.scheduled["body"] == 5
    assert module.endless == []
    unknown = parse(TPU_TEXT.replace("constant(5)", "get-tuple-element(%at), index=2"))
    assert unknown.endless == ["loop"] and unknown.turns["body"] == 1


def test_collectives_are_read_from_a_tpu_programs_text(module):
    """One that is spread over several fusions is one; one in a loop is sent each turn."""
    found = sorted((one.kind, one.bytes, one.turns) for one in collectives(module))
    assert found == [
        ("all-gather", 8 * 4 * 4, 1),
        ("all-gather", 16 * 128 * 2, 1),
        ("all-gather", 1024 * 2048 * 2, 1),
        ("all-reduce", 4 + 3 * 4, 1),
        ("all-reduce", 5 * 4 * 4, 5),
        ("reduce-scatter", 1024 * 2048 * 2, 1),
    ]
    assert {one.name for one in collectives(module)} == {"", "jit(f)/psum"}


def test_the_text_of_a_program_compiled_here_is_understood():
    def nested(x):
        def inner(x, _):
            return jnp.tanh(x), None

        def outer(x, _):
            return jax.lax.scan(inner, x + jnp.sum(x), None, length=3)[0], None

        return jax.lax.scan(outer, x, None, length=5)[0]

    text = jax.jit(nested).lower(jnp.ones((8, 8))).compile().as_text()
    module = parse(text)
    assert module.endless == []
    assert max(module.turns.values()) >= 15
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule nothing")


def test_of_a_condition_counts_what_is_done_if_it_does_not_hold():
    square = jnp.ones((8, 8))

    def step(over, square):
        return jax.lax.cond(over, lambda a: a @ a @ a, lambda a: a @ a, square).sum()

    for function in (step, jax.grad(step, argnums=1)):
        module = parse(jax.jit(function).lower(True, square).compile().as_text())
        kinds = [op.kind for name in module.turns for op in module.computations[name].values()]
        products = 1 if function is step else 2  # the gradients of both factors
        assert "conditional" in kinds and kinds.count("dot") == products
