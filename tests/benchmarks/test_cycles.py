"""What the TPU compiler expects of a program, against a text that was written by hand."""

import pytest

from benchmarks import cycles
from moa_jax.planning.hlo import parse
from tests.planning.conftest import libtpu
from tests.planning.makers import layers

TOLD = 'backend_config={"window_config":{"estimated_cycles":"%d","iteration_bounds":[]}}'
OF_UNET = 'metadata={op_name="jit(step)/jvp(UNet)/down/%s"}'
BACKWARD = 'metadata={op_name="jit(step)/transpose(jvp(UNet))/down/%s"}'
LOOP = 'backend_config={"known_trip_count":{"n":"6"}}'
TEXT = f"""HloModule step

%fused_conv (p: f32[1,10,10,4], q: f32[3,3,4,16]) -> f32[1,8,8,16] {{
  %p = f32[1,10,10,4] parameter(0)
  %q = f32[3,3,4,16] parameter(1)
  %c = f32[1,8,8,16] convert(%conv)
  ROOT %conv = f32[1,8,8,16] convolution(%p, %q), window={{size=3x3}}, dim_labels=b01f_01io->b01f
}}

%fused_product (s: f32[16,8], t: f32[8,2]) -> f32[16,2] {{
  %s = f32[16,8] parameter(0)
  %t = f32[8,2] parameter(1)
  ROOT %product = f32[16,2] convolution(%s, %t), dim_labels=bf_io->bf
}}

%fused_sum (v: f32[16,8]) -> f32[16] {{
  %v = f32[16,8] parameter(0)
  %z = f32[] constant(0)
  %w = f32[16,8] convert(%v)
  ROOT %sum = f32[16] reduce(%w, %z), dimensions={{1}}
}}

%body (b: f32[16,8]) -> f32[16,8] {{
  %b = f32[16,8] parameter(0)
  %k = f32[8,2] constant(0)
  ROOT %in_turn = f32[16,2] fusion(%b, %k), calls=%fused_product, {BACKWARD % "p"}, {TOLD % 70}
}}

%condition (d: f32[16,8]) -> pred[] {{
  %d = f32[16,8] parameter(0)
  ROOT %go = pred[] constant(true)
}}

ENTRY %main (x: f32[1,10,10,4], y: f32[3,3,4,16], a: f32[16,8]) -> f32[16,8] {{
  %x = f32[1,10,10,4] parameter(0)
  %y = f32[3,3,4,16] parameter(1)
  %a = f32[16,8] parameter(2)
  %first = f32[1,8,8,16] fusion(%x, %y), calls=%fused_conv, {OF_UNET % "conv"}, {TOLD % 1000}
  %kernel = f32[16,8] custom-call(%a), custom_call_target="tpu_custom_call", {OF_UNET % "attn"}
  %norm = f32[16] fusion(%kernel), calls=%fused_sum, {OF_UNET % "norm"}, {TOLD % 30}
  %moved = f32[16,8] copy(%a), {TOLD % 5}
  ROOT %loop = f32[16,8] while(%moved), condition=%condition, body=%body, {LOOP}
}}
"""


def test_each_operation_counts_with_its_turns_its_kind_and_its_network():
    found = {each.kind: each for each in cycles.expected(parse(TEXT))}
    assert {kind: each.cycles for kind, each in found.items()} == {
        "convolutions": 1000,
        "matrix products": 6 * 70,
        "sums": 30,
        "moves": 5,
    }
    # Eight places along each side; nine of the kernel; four channels to sixteen.
    assert found["convolutions"].flops == 2 * 8 * 8 * 9 * 4 * 16
    assert found["matrix products"].flops == 6 * 2 * 16 * 8 * 2
    assert found["sums"].flops == 0
    assert found["sums"].network == "UNet"
    assert found["matrix products"].network == "UNet backward"


def test_cycles_become_time_at_the_rate_that_gives_the_chips_peak():
    each_second = 4 * 128 * 128 * 2 * cycles.HERTZ  # four units, multiply and add
    assert each_second == pytest.approx(cycles.CHIP.flops, rel=0.01)
    operations = [
        cycles.Expected("sums", "UNet", 3.0e6, 0.0),
        cycles.Expected("convolutions", "VAE", 1.5e6, 197e9),
    ]
    lines = cycles.markdown(operations, kernels=2 * 197e9).splitlines()
    assert lines[2:4] == ["| sums | 2.0 | 0.0 |", "| convolutions | 1.0 | 1.0 |"]
    assert lines[4] == "| all | 3.0 | 1.0 |"
    assert lines[8:10] == ["| UNet | 2.0 | 0.0 |", "| VAE | 1.0 | 1.0 |"]
    assert lines[-1].endswith("2.0 ms at peak.")


@libtpu
def test_a_text_is_compiled_once_and_read_again(tmp_path, monkeypatch, capsys):
    asked = []

    def small(base, images):
        asked.append((base / "unet" / "config.json").is_file())
        return layers(2, 256 * images, in_int8=False)

    monkeypatch.setitem(cycles.PROGRAMS, "pass", small)
    arguments = ["pass", "--size", "tiny", "--images", "2", "--out", str(tmp_path)]
    assert cycles.main(arguments) == 0
    first = (tmp_path / "cycles-pass-tiny-2.md").read_text()
    assert "| matrix products |" in first
    capsys.readouterr()
    assert cycles.main(arguments) == 0
    assert "compiling" not in capsys.readouterr().out
    assert (tmp_path / "cycles-pass-tiny-2.md").read_text() == first
    assert asked == [True]
