"""The page of scale: bounds worked out by hand, and the page on record from the plans on record."""

import json
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.bounds import Scaling, bound, strong, weak
from benchmarks.scale_page import BEGIN, END, Run, figure, insert, markdown
from moa_jax.errors import InputError

OUT = Path(__file__).parents[2] / "docs" / "scale"
PEAKS = {"v5e": (197e12, 819e9, 200e9), "v6e": (918e12, 1640e9, 448e9)}  # as their maker says


def plan(topology, chips, images, seconds, preset="fsdp", remat=False, fits=True):
    """A plan of which one chip's arithmetic, memory and links take these seconds at their peaks."""
    kind = topology.split(":")[0]
    flops, read, sent = (time * peak for time, peak in zip(seconds, PEAKS[kind], strict=True))
    return {
        "topology": topology,
        "remat": remat,
        "attention": "auto",
        "title": preset,
        "chip": kind,
        "devices": chips,
        "images": images,
        "fits": fits,
        "memory": {"frozen": 2**30, "temporaries": 2**31},
        "limit": 15.75 * 2**30,
        "flops": flops / 4,
        "kernel_flops": flops * 3 / 4,
        "bytes": read,
        "collectives": {"all-gather": [7, sent / 2], "all-reduce": [1, sent / 2]},
    }


EIGHT = plan("v5e:2x4", 8, 64, (0.2, 0.1, 0.05))
PLANS = [
    EIGHT,
    plan("v5e:4x4", 16, 128, (0.2, 0.1, 0.16)),
    plan("v5e:8x8", 64, 512, (0.2, 0.1, 0.25)),
    plan("v5e:2x4", 8, 128, (0.5, 0.1, 0.05), remat=True),
    plan("v5e:8x16", 128, 128, (0.025, 0.03, 0.05)),
    plan("v5e:8x16", 128, 128, (0.025, 0.05, 0.001), preset="dp"),
]


def run(**changes):
    given = {"batch": 128, "steps": 100, "efficient": 0.8, "prices": {}, "missing": []}
    return Run(**given | changes)


def test_a_bound_is_the_longest_of_three_times_at_the_makers_peaks():
    eight = bound(EIGHT)
    assert eight.times == pytest.approx({"arithmetic": 0.2, "memory": 0.1, "links": 0.05})
    assert (eight.kind, eight.per_chip, eight.memory, eight.limit) == ("v5e", 8, 3, 15.75)
    assert eight.rules() == "arithmetic" and eight.seconds() == pytest.approx(0.2)
    assert eight.rate() == pytest.approx(40)
    # 144,000 pictures at 40 a second are one hour of a chip.
    assert eight.chip_hours(144_000) == pytest.approx(1)


def test_at_a_corner_half_of_the_links_work_and_sums_are_sent_twice():
    """Half of the bytes are sums: 0.16 s become (0.08 + 2 * 0.08) * 2."""
    sixteen = bound(PLANS[1])
    assert sixteen.limits(corner=True)["links"] == pytest.approx(0.48)
    assert (sixteen.rules(), sixteen.rules(corner=True)) == ("arithmetic", "links")
    assert sixteen.rate(corner=True) == pytest.approx(8 / 0.48)
    gathers = {**PLANS[1], "collectives": {"all-gather": [9, 32e9]}}
    assert bound(gathers).corner == pytest.approx(0.32)


def test_weak_scaling_is_relative_to_one_chip_without_messages():
    slow = plan("v5e:2x4", 8, 64, (0.2, 0.1, 0.4))  # its links rule, and do not count in the base
    scaling = weak([bound(each) for each in [*PLANS[1:], slow]], per_chip=8)
    assert [each.chips for each in scaling.bounds] == [8, 16, 64]
    assert scaling.base == pytest.approx({"v5e": 40})
    shares = [scaling.efficiency(each) for each in scaling.bounds]
    assert shares == pytest.approx([0.5, 1.0, 0.8])
    assert scaling.efficiency(scaling.bounds[2], corner=True) == pytest.approx(0.8 / 3)


def test_strong_scaling_is_relative_to_the_smallest_mesh_that_recomputes_nothing():
    scaling = strong([*map(bound, PLANS)], batch=128)
    assert [(each.chips, each.preset) for each in scaling.bounds] == [
        *((8, "fsdp"), (16, "fsdp"), (128, "dp"), (128, "fsdp"))
    ]
    assert scaling.base == pytest.approx({"v5e": 40})  # 16 chips; the 8 do more work
    shares = [scaling.efficiency(each) for each in scaling.bounds]
    assert shares == pytest.approx([0.8, 1.0, 0.5, 0.5])
    assert scaling.largest("v5e", 0.8).chips == 16
    assert scaling.largest("v5e", 0.75, corner=True).chips == 8
    best = scaling.largest("v5e", 0.1, corner=True)  # dp takes 0.05 s, fsdp 0.15 s
    assert (best.chips, best.preset) == (128, "dp")


def test_what_does_not_fit_is_no_base_and_has_no_efficiency():
    full = plan("v5e:1x1", 1, 8, (0, 0, 0), fits=False)
    scaling = weak([bound(full), bound(EIGHT)], per_chip=8)
    assert scaling.base == pytest.approx({"v5e": 40})
    assert scaling.efficiency(bound(full)) is None
    alone = weak([bound(full)], per_chip=8)
    assert alone == Scaling("weak", alone.bounds, {})
    line = next(each for each in markdown([bound(full)], run()).split("\n") if "v5e:1x1" in each)
    assert line == "| v5e:1x1 fsdp | 1 | 8 | 3.0 of 15.8: does not fit |" + " - |" * 8


def test_a_row_shows_in_brackets_what_a_corner_changes():
    lines = markdown([*map(bound, PLANS)], run()).split("\n")
    # 12,800 pictures at 40 a second and chip are 0.09 chip-hours, at 16.7 they are 0.21.
    assert lines[5] == (
        "| v5e:4x4 fsdp | 16 | 8 | 3.0 of 15.8 | 200.0 | 100.0 | 160.0 (480.0) | arithmetic (links)"
        " | 200.0 (480.0) | 40.0 (16.7) | 100 % (42 %) | 0 |"
    )
    assert "one chip that sends no messages: v5e 64 by fsdp (8 by fsdp)." in "\n".join(lines)


def test_drawings_are_apart_and_prices_are_the_users():
    drawing = plan("v5e:1x1", 1, 4, (2.0, 1.0, 0.0), preset="one device")
    bounds = [bound(EIGHT), bound(drawing)]
    assert markdown(bounds, run()).split("\n")[-3] == (
        "| v5e | auto | 4 | 3.0 of 15.8 | 2.00 | 1.00 | arithmetic | 2.00 | 7200 |"
    )
    priced = markdown(bounds, run(prices={"v5e": 2.0}, steps=11_250)).split("\n")
    assert priced[-3].endswith("| 7200 | 3600 |")  # pictures of a dollar
    assert priced[4].endswith("| 10 | 20 |")  # chip-hours, dollars
    assert "dollar" not in markdown(bounds, run())
    other = markdown(bounds, run(prices={"v6e": 2.0})).split("\n")
    assert other[-3].endswith("| 7200 | - |")


@pytest.mark.parametrize("given", ["v5e", "v5e=", "v5e=-1", "v5e=0", "v9=1", "v5e=much"])
def test_a_price_that_cannot_be_read_is_named(given):
    with pytest.raises(InputError, match=f"--price {given}: must be one of v5e, v5p, v6e"):
        scale.price(given)
    assert scale.price("v5e=1.25") == ("v5e", 1.25)


def test_a_missing_plan_is_said():
    assert "Not compiled: `fsdp v5e:8x8 128`." in markdown([], run(missing=["fsdp v5e:8x8 128"]))
    assert "Not compiled" not in markdown([], run())


def test_only_what_stands_between_the_markers_is_written():
    page = f"# Mine\n\n{BEGIN}\nold\n{END}\n\nMine too.\n"
    assert insert(page, "new") == f"# Mine\n\n{BEGIN}\nnew\n{END}\n\nMine too.\n"
    assert insert(insert("", "old"), "new") == f"# Scale on paper\n\n{BEGIN}\nnew\n{END}\n"
    for broken in (BEGIN, END, f"{END}\n{BEGIN}", page + END):
        with pytest.raises(ValueError, match="the page must have"):
            insert(broken, "new")


def test_only_missing_plans_are_compiled_and_each_is_kept_at_once(tmp_path, monkeypatch):
    jobs = [scale.Job("v5e:2x4", 64), scale.Job("v5e:4x4", 128), scale.Job("v5e:1x1", 4, None)]
    (tmp_path / "plans.json").write_text(json.dumps({"fsdp v5e:2x4 64": EIGHT}))
    asked = []

    def planned(job, base):
        assert (base / "unet" / "config.json").is_file()
        asked.append(job.key)
        if job.preset is None:
            raise KeyboardInterrupt
        return {"images": job.images}

    monkeypatch.setattr(scale, "planned", planned)
    with pytest.raises(KeyboardInterrupt):
        scale.complete(tmp_path, jobs)
    assert asked == ["fsdp v5e:4x4 128", "draw v5e:1x1 4"]
    kept = scale.read(tmp_path)
    assert list(kept) == ["fsdp v5e:2x4 64", "fsdp v5e:4x4 128"]
    assert (
        kept["fsdp v5e:4x4 128"].items()
        >= {"topology": "v5e:4x4", "remat": False, "images": 128}.items()
    )


def test_a_job_is_the_papers_run_with_other_chips_and_pictures(tmp_path):
    config = scale.step_config(scale.Job("v5e:2x4", 64, remat=True), tmp_path)
    paper = scale.load_config(scale.RUN)
    assert (config.train.batch_size, config.model.remat) == (64, True)
    assert config.train.steps == paper.train.steps and config.method == paper.method


def test_the_command_writes_the_page_beside_its_folder(tmp_path):
    out = tmp_path / "scale"
    out.mkdir()
    (out / "plans.json").write_text(json.dumps({"fsdp v5e:2x4 64": EIGHT}))
    assert scale.main(["--out", str(out), "--no-plan", "--efficient", "0.5"]) == 0
    page = (tmp_path / "scale.md").read_text(encoding="utf-8")
    assert "| v5e:2x4 fsdp | 8 | 8 |" in page and "`fsdp v5e:8x8 128`" in page
    assert (tmp_path / "scale.png").is_file()
    assert scale.main(["--out", str(out), "--no-plan", "--price", "gold=1"]) == 2


def test_the_page_on_record_is_of_the_plans_on_record():
    page = OUT.with_suffix(".md").read_text(encoding="utf-8")
    bounds, about = scale.on_record(OUT)
    assert insert(page, markdown(bounds, about)) == page
    assert set(scale.read(OUT)) <= {job.key for job in scale.PLANS}
    assert (OUT.with_suffix(".png")).stat().st_size < 150_000


def test_the_figure_has_a_mark_for_each_plan_and_no_line_between_them():
    left, right = figure([*map(bound, PLANS)], run()).axes
    lines = [*left.lines, *right.lines]
    assert all(line.get_linestyle() == "None" for line in lines)
    points = sorted((x, y) for line in left.lines for x, y in zip(*line.get_data(), strict=True))
    expected = [each for each in PLANS if each["images"] == 128]
    assert len(points) == 3 * len(expected)
    assert points[0] == pytest.approx((8, 50))  # milliseconds
    assert len(right.lines) == 3 + len(expected)
