"""Where traffic comes from, read from text, and of a network that was compiled for a TPU."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from moa_jax.planning.hlo import parse
from moa_jax.planning.origin import add_traffic, kind_of, network_of, traffic_by_origin
from moa_jax.planning.traffic import memory_traffic
from tests.planning import makers
from tests.planning.conftest import libtpu

STEP = "jit(train_step)/"
LARGE, PART = 4096 * 1024 * 4, 1024 * 1024 * 4  # bytes of f32[4096,1024] and f32[1024,1024]
TEXT = """\
%begun (p: f32[4096,1024]) -> f32[1024,1024] {
  %p = f32[4096,1024]{1,0:T(8,128)} parameter(0)
  ROOT %s = f32[1024,1024]{1,0:T(8,128)S(1)} slice(%p), slice={[0:1024], [0:1024]}
}

ENTRY %main (x: f32[4096,1024]) -> f32[4096,1024] {
  %x = f32[4096,1024]{1,0:T(8,128)} parameter(0)
  %near = ((f32[4096,1024]{1,0:T(8,128)}), f32[1024,1024]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) async-start(%x), calls=%begun
  %here = f32[1024,1024]{1,0:T(8,128)S(1)} async-done(%near)
  %n = f32[1024,1024]{1,0:T(8,128)S(1)} negate(%here), metadata={op_name="jit(f)/jvp(VAE.encode)/encoder/conv1/neg"}
  %m = f32[4096,1024]{1,0:T(8,128)} exponential(%x), metadata={op_name="jit(f)/transpose(jvp(UNet))/b.0/attn1/to_q/exp"}
  ROOT %c = f32[4096,1024]{0,1:T(8,128)} copy(%m)
}
"""  # noqa: E501 (as the compiler writes it)


def test_copies_without_a_name_belong_to_what_reads_them_or_to_what_they_copy():
    found = traffic_by_origin(parse(TEXT))
    assert found == {"UNet backward": {"self-attention": 4 * LARGE}, "VAE": {"convolutions": PART}}
    assert list(found) == ["UNet backward", "VAE"]
    assert sum(sum(kinds.values()) for kinds in found.values()) == memory_traffic(parse(TEXT))


@pytest.mark.parametrize(
    ("path", "network", "kind"),
    [
        ("jvp(UNet)/UNet._up/up_blocks.3.attentions.1/transformer_blocks.0/attn1/to_q/dot_general",
         "UNet", "self-attention"),
        ("transpose(jvp(UNet))/up_blocks.3.attentions.1/transformer_blocks.0/attn2/router/logits/dot",
         "UNet backward", "cross-attention"),
        ("while/body/closed_call/jvp(UNet)/transformer_blocks.0/ff/net.2/dot_general",
         "UNet", "feed-forward"),
        ("transpose(jvp(UNet))/UNet._up/up_blocks.3.resnets.1/norm1/reduce_sum",
         "UNet backward", "norms"),
        ("jvp(VAE.encode)/encoder/down_blocks.0.resnets.0/conv1/conv_general_dilated",
         "VAE", "convolutions"),
        ("jvp(VisionEncoder)/vision_model.encoder.layers.3/self_attn/q_proj/dot_general",
         "VisionEncoder", "self-attention"),
        ("UNet/UNet._encode/conv_in/conv_general_dilated", "UNet", "convolutions"),
        ("transpose(jvp())/reduce_sum", "rest", "rest"),
        ("jit(_threefry_split)/slice", "rest", "rest"),
        ("", "rest", "rest"),
    ],
)  # fmt: skip
def test_a_path_names_network_and_kind(path, network, kind):
    assert (network_of(STEP + path), kind_of(STEP + path)) == (network, kind)


def test_traffic_adds_up_in_falling_order():
    parts = [({"A": {"x": 1, "y": 5}}, 2), ({"B": {"x": 100}, "A": {"x": 30}}, 1)]
    found = add_traffic(parts)
    assert found == {"B": {"x": 100}, "A": {"x": 32, "y": 10}}
    assert list(found) == ["B", "A"] and list(found["A"]) == ["x", "y"]


class Net(nn.Module):
    """A norm and a product."""

    @nn.compact
    def __call__(self, hidden):
        return nn.Dense(512, name="conv1")(nn.LayerNorm(name="norm1")(hidden))


@libtpu
def test_a_networks_backward_pass_is_told_from_its_forward_pass():
    def gradient(kernel, hidden):
        def loss(kernel):
            scale = jnp.ones(512)
            norm, product = {"scale": scale, "bias": scale}, {"kernel": kernel, "bias": scale}
            params = {"params": {"norm1": norm, "conv1": product}}
            return jnp.sum(jnp.tanh(Net().apply(params, hidden)))

        return jax.value_and_grad(loss)(kernel)

    text = makers.on_v5e(gradient, (512, 512), (65536, 512)).lower().compile().as_text()
    found = traffic_by_origin(parse(text))
    assert set(found) >= {"Net", "Net backward"}
    rows = 65536 * 512 * 4
    # The gradient of the product alone reads the normalised rows again.
    assert found["Net"]["norms"] >= rows and sum(found["Net backward"].values()) >= rows
    assert sum(sum(kinds.values()) for kinds in found.values()) == memory_traffic(parse(text))
