"""What is read out of compiled programs, on text as compilers write it and on a small program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moa_jax.chips import CHIPS
from moa_jax.planning.compiled import Usage, compile_with_text, kernel_bytes, measure
from moa_jax.training.collectives import Collective, collectives

TPU_TEXT = """\
HloModule jit_f, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%all-reduce-scatter (input: bf16[1024,2048]) -> bf16[256,2048] {
  %input = bf16[1024,2048]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.3 = bf16[1024,2048]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=5
}

ENTRY %main.1_spmd (param: bf16[256,2048], param.1: bf16[1024,1024]) -> bf16[] {
  %param.1 = bf16[256,2048]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="all-gather (no)"}
  %all-gather.6 = bf16[1024,2048]{1,0:T(8,128)(2,1)S(1)} all-gather(%param.1), channel_id=2
  %ag-start = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%param.2), channel_id=3
  %ag-done = f32[8,4]{1,0} all-gather-done(%ag-start), channel_id=3
  %fusion = bf16[256,2048]{1,0} fusion(%fusion.1), kind=kCustom, calls=%all-reduce-scatter
  %kernel = (f32[2,8]{1,0}, pred[16]{0}) custom-call(%param.1, %ag-done), custom_call_target="tpu_custom_call", backend_config={"all-to-all": 1}
  ROOT %all-reduce = (f32[], s32[3]{0}) all-reduce(%a, %b), channel_id=3, to_apply=%region_0.0.clone
}
"""  # noqa: E501 (as the compiler writes it)


def test_collectives_are_read_from_a_tpu_programs_text():
    assert [(one.kind, one.bytes) for one in collectives(TPU_TEXT)] == [
        ("reduce-scatter", 1024 * 2048 * 2),
        ("all-gather", 1024 * 2048 * 2),
        ("all-gather", 8 * 4 * 4),
        ("all-reduce", 4 + 3 * 4),
    ]


def test_a_kernel_moves_its_operands_and_results():
    assert kernel_bytes(TPU_TEXT) == 256 * 2048 * 2 + 8 * 4 * 4 + 2 * 8 * 4 + 16
    assert kernel_bytes("") == 0


@pytest.fixture(scope="module")
def product():
    """A product of a split matrix with split rows, over eight devices."""
    mesh = Mesh(np.asarray(jax.devices()), ("x",))
    split = NamedSharding(mesh, PartitionSpec("x"))
    weight, rows = (
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split) for shape in ((64, 16), (32, 64))
    )
    lowered = jax.jit(lambda w, x: jnp.sum(x @ w)).lower(weight, rows)
    return lowered, {"weight": weight, "rows": rows}


def test_a_program_is_measured_as_one_device_sees_it(product):
    usage = measure(*product)
    assert usage.fits
    assert dict(usage.parts) == {"weight": 64 * 16 * 4 // 8, "rows": 32 * 64 * 4 // 8}
    assert usage.memory == sum(usage.parts.values()) + usage.temporaries
    assert usage.temporaries >= 64 * 16 * 4  # the gathered matrix
    assert 2 * 4 * 64 * 16 <= usage.flops <= 3 * 4 * 64 * 16
    sent = {(one.kind, one.bytes) for one in usage.collectives}
    assert sent == {("all-gather", 64 * 16 * 4), ("all-reduce", 4)}
    assert usage.pallas_bytes == 0


def test_the_text_is_that_of_the_compiled_program(product):
    compiled, text = compile_with_text(product[0])
    assert compiled.cost_analysis()["flops"] > 0
    assert "all-gather" in text and "ENTRY" in text


def test_memory_that_the_compiler_asks_for_in_vain_is_read_from_its_error(product):
    class TooLarge:
        def compile(self, **_):
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
                "temporaries (56.00G) exceeds available HBM (15.75G). HLO module: jit_f."
            )

    usage = measure(TooLarge(), product[1])
    assert not usage.fits
    assert usage.temporaries == 56 * 2**30

    class Broken:
        def compile(self, **_):
            raise jax.errors.JaxRuntimeError("INTERNAL: (1.00G)")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        measure(Broken(), product[1])


def test_the_slowest_resource_bounds_the_time():
    chip = CHIPS["TPU v5 lite"]
    gathered = Collective("all-gather", (("u8", (int(chip.link_bandwidth),)),), "")
    usage = Usage({}, 0, True, chip.flops * 2, chip.memory_bandwidth * 3, 0, [gathered])
    assert usage.times(chip) == {"arithmetic": 2.0, "memory": 3.0, "links": 1.0}
