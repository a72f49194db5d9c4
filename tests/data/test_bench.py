import shutil
import time

import pytest

from moa_jax.config import DataConfig
from moa_jax.data import bench
from moa_jax.data.__main__ import main
from moa_jax.data.bench import AUGMENTED, PLAIN, READ, Rate, measure, report
from moa_jax.data.pack import pack


def test_it_says_how_many_cores_and_hosts_the_chips_need():
    rates = {
        READ: Rate(images=1000, seconds=10.0, core_seconds=20.0),
        PLAIN: Rate(images=400, seconds=10.0, core_seconds=20.0),
        AUGMENTED: Rate(images=300, seconds=10.0, core_seconds=20.0),
    }
    title, _, *rows, cores, host = report(DataConfig(path="faces", workers=3), rates, 128.0)
    assert title.startswith("faces at 512 pixels, 3 threads, ")
    assert [row.split()[-2:] for row in rows] == [
        ["100.0", "50.0"],
        ["40.0", "20.0"],
        ["30.0", "15.0"],
    ]
    assert "128.0 images/s never wait with 9 such cores" in cores  # 128 / 15
    assert "(7 without augmentation)" in cores  # 128 / 20
    assert host.endswith("made 30.0 images/s: it would take 5 such hosts")
    assert report(DataConfig(path="faces"), rates, 30.0)[-1].endswith("enough")


def test_waiting_is_no_work():
    def stream():
        while True:
            time.sleep(0.02)
            yield 4

    seconds = []
    rate = bench._time(stream(), 1.1, lambda: seconds.append(1))
    assert seconds == [1]
    assert 1.1 <= rate.seconds < 3 and 0 < rate.images <= 4 * 60 and rate.images % 4 == 0
    assert rate.core_seconds < rate.seconds / 2
    assert rate.per_second == rate.images / rate.seconds
    assert rate.per_core > 2 * rate.per_second


@pytest.mark.parametrize("packed", [False, True])
def test_it_measures_what_trains(imagefolder, tokenizer, tmp_path, packed):
    if packed:
        pack(DataConfig(path=str(imagefolder)), tmp_path)
    path = tmp_path if packed else imagefolder
    data = DataConfig(path=str(path), resolution=32, workers=2)
    total, passed = [], []
    rates = measure(data, tokenizer, 1.0, total.append, lambda: passed.append(1))
    assert total == [3] and len(passed) == 3
    assert list(rates) == [READ, PLAIN, AUGMENTED]
    for rate in rates.values():
        assert rate.images > 0 and rate.core_seconds > 0 and rate.seconds >= 1.0
    assert rates[READ].per_core > rates[AUGMENTED].per_core  # the same reading, and more


def test_as_a_command(imagefolder, capsys):
    arguments = ["bench", str(imagefolder), "--seconds", "0.2", "--resolution", "32"]
    assert main([*arguments, "--images-per-second", "1e6"]) == 0
    output = capsys.readouterr().out
    assert "chips that take 1000000.0 images/s" in output and "such hosts" in output
    assert main([*arguments, "--batch-size", "3", "--step-seconds", "1.5"]) == 0
    assert "chips that take 2.0 images/s never wait with 1 such cores" in capsys.readouterr().out


def test_of_buckets(imagefolder, capsys):
    arguments = ["bench", str(imagefolder), "--seconds", "0.2", "--resolution", "128", "--buckets"]
    assert main([*arguments, "--max-crop", "0.5"]) == 0
    assert " at 128 pixels, in buckets, 8 threads" in capsys.readouterr().out
    assert main([*arguments, "--max-crop", "0"]) == 2
    assert "would be cropped, more than data.max_crop=0.0 allows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--seconds", "0"], "--seconds: '0' is not a number above 0"),
        (["--seconds", "inf"], "--seconds: 'inf' is not a number above 0"),
        (["--step-seconds", "soon"], "--step-seconds: 'soon' is not a number above 0"),
        (["--step-seconds", "1", "--images-per-second", "1"], "not allowed with argument"),
        (["--resolution", "2.5"], "--resolution: '2.5' is not a whole number above 0"),
        (["--layout", "packed"], "index.json: no such file (layout packed)"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(imagefolder, arguments, part, capsys):
    try:
        code = main(["bench", str(imagefolder), *arguments])
    except SystemExit as exit:
        code = exit.code
    error = capsys.readouterr().err
    assert code == 2 and part in error and error.startswith("error: ") and error.count("\n") == 1


def test_bad_records_stop_it_as_they_stop_training(imagefolder, tmp_path, capsys):
    shutil.copytree(imagefolder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chelsea.png").write_bytes(b"no picture")
    assert main(["bench", str(tmp_path), "--seconds", "0.2", "--resolution", "32"]) == 2
    assert "1 of the 4 records" in capsys.readouterr().err
