"""FLOPs counted from a program's text are those that XLA counts, and those of the formulas."""

import jax
import jax.numpy as jnp
import pytest

from moa_jax.planning.flops import ATTENTION, kernel_flops, matrix_flops, unknown_kernels
from moa_jax.planning.hlo import parse


def compiled(function, *shapes):
    arrays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    return jax.jit(function).lower(*arrays).compile()


@pytest.mark.parametrize(
    ("image", "kernel", "options"),
    [
        ((2, 9, 7, 6), (3, 3, 6, 10), {"padding": "SAME"}),
        ((2, 9, 7, 6), (3, 2, 6, 10), {"padding": [(0, 2), (1, 3)], "window_strides": (2, 3)}),
        ((2, 9, 7, 6), (3, 3, 2, 9), {"padding": "SAME", "feature_group_count": 3}),
        ((4, 9, 7, 6), (3, 3, 6, 10), {"padding": "SAME", "batch_group_count": 2}),
        ((2, 5, 4, 6), (3, 3, 6, 4), {"padding": [(2, 2), (1, 4)], "lhs_dilation": (2, 3)}),
        ((2, 9, 8, 6), (3, 3, 6, 4), {"padding": [(0, 0), (1, 0)], "rhs_dilation": (2, 3)}),
    ],
)
def test_a_convolution_counts_as_xla_counts_it(image, kernel, options):
    """Padding and holes are multiplied with nothing."""

    def convolve(x, w):
        layout = ("NHWC", "HWIO", "NHWC")
        strides = options.get("window_strides", (1, 1))
        rest = {key: value for key, value in options.items() if key != "window_strides"}
        return jax.lax.conv_general_dilated(x, w, strides, dimension_numbers=layout, **rest)

    program = compiled(convolve, image, kernel)
    assert matrix_flops(parse(program.as_text())) == program.cost_analysis()["flops"] > 0


def test_matrix_products_count_in_fusions_and_each_turn_of_a_loop():
    def work(x, w):
        def turn(x, _):
            return jnp.einsum("bij,jk->bik", jnp.tanh(x), w), None

        return jax.lax.scan(turn, x, None, length=6)[0] @ w

    program = compiled(work, (3, 5, 16), (16, 16))
    assert matrix_flops(parse(program.as_text())) == 7 * 2 * 3 * 5 * 16 * 16


def test_gradients_cost_what_they_must():
    """Of a frozen and a trained product: forward twice, the way back once, the weight's once."""

    def loss(trained, frozen, x):
        return jnp.sum(jnp.tanh(x @ trained) @ frozen)

    program = compiled(jax.grad(loss), (32, 48), (48, 64), (16, 32))
    products = 16 * 32 * 48, 16 * 48 * 64
    count = matrix_flops(parse(program.as_text()))
    # The sum's own gradient is of ones: XLA may leave out the frozen product itself.
    assert count in (2 * (2 * products[0] + n * products[1]) for n in (1, 2))


KERNEL_TEXT = """\
ENTRY %main (p: s8[1,8,8]) -> f32[] {
  %mask = s8[1,8,8]{2,1,0} parameter(0)
  %q = bf16[2,8,40,4096]{3,2,1,0} parameter(1)
  %k = bf16[2,8,40,1024]{3,2,1,0} parameter(2)
  %NAME.2 = f32[2,8,4096,40]{3,2,1,0} custom-call(MASK%q, %k, %k), custom_call_target="tpu_custom_call", body="a=(b)"
  ROOT %mine.1 = f32[] custom-call(%q), custom_call_target="tpu_custom_call"
}
"""  # noqa: E501 (as the compiler writes it)


@pytest.mark.parametrize(
    ("name", "mask", "products"),
    [
        ("splash_mha_fwd_residuals", "%mask, %mask, ", 2),
        ("splash_mha_dkv_no_residuals", "%mask, %mask, ", 4),
        ("splash_mha_dq_no_residuals", "%mask, %mask, ", 3),
        ("jvp_flash_fwd_", "", 2),
        ("transpose_jvp_flash_bwd__", "", 5),
    ],
)
def test_attention_kernels_count_by_formula(name, mask, products):
    module = parse(KERNEL_TEXT.replace("NAME", name).replace("MASK", mask))
    scores = 2 * 8 * 4096 * 1024
    assert kernel_flops(module) == products * 2 * scores * 40
    assert unknown_kernels(module) == 1
    assert matrix_flops(module) == 0


def test_attention_kernels_of_one_picture_have_no_axis_for_the_batch():
    text = KERNEL_TEXT.replace("NAME", "splash_mha_fwd_residuals").replace("MASK", "%mask, ")
    assert kernel_flops(parse(text.replace("[2,8,", "[8,"))) == 2 * 2 * (8 * 4096 * 1024) * 40


def test_the_formula_of_the_forward_pass_is_the_count_of_plain_attention():
    program = compiled(
        lambda q, k, v: jax.nn.dot_product_attention(q, k, v, implementation="xla"),
        *[(2, 64, 4, 24), (2, 32, 4, 24), (2, 32, 4, 24)],
    )
    assert matrix_flops(parse(program.as_text())) == 2 * ATTENTION["flash_fwd"] * 8 * 64 * 32 * 24
