import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from moa_jax.config import DataConfig
from moa_jax.data.pack import pack
from moa_jax.data.records import open_records
from moa_jax.errors import InputError
from tests.data.test_loader import assert_same, open_loader, take


@pytest.fixture(scope="module", params=["imagefolder", "ffhq"])
def both(request, tmp_path_factory):
    """A data set in its own layout and packed, three records and one in its two shards."""
    source = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("packed") / request.param
    pack(DataConfig(path=str(source)), folder, shard_size=3)
    return source, folder


@pytest.mark.parametrize("workers", [0, 4])
def test_a_packed_folder_gives_the_very_batches_of_its_source(both, tokenizer, workers):
    source, folder = both
    expected = take(open_loader(source, tokenizer), 6)  # 18 pictures of 4: several epochs
    assert expected[0]["subject_present"].any()
    assert_same(take(open_loader(folder, tokenizer, workers=workers), 6), expected)


def test_a_run_may_move_to_the_packed_folder_and_resumes_on_the_next_record(both, tokenizer):
    source, folder = both
    whole = open_loader(source, tokenizer)
    take(whole, 3)
    state = json.loads(json.dumps(whole.get_state()))
    expected = take(whole, 3)
    resumed = open_loader(folder, tokenizer)
    resumed.set_state(state)
    assert_same(take(resumed, 3), expected)


def test_hosts_share_a_packed_folder_without_overlap(both, tokenizer):
    source, folder = both
    whole = take(open_loader(source, tokenizer, 4), 3)
    hosts = [take(open_loader(folder, tokenizer, 4, rows=range(i, 4, 2)), 3) for i in range(2)]
    for batch, *halves in zip(whole, *hosts, strict=True):
        for key in batch:
            woven = np.stack([half[key] for half in halves], axis=1)
            np.testing.assert_array_equal(woven.reshape(batch[key].shape), batch[key])


def test_threads_may_read_the_same_records(both):
    records = open_records(both[1], subject_label="person")
    expected = [record.image.data for record in records] * 50
    with ThreadPoolExecutor(8) as pool:
        places = list(range(4)) * 50
        assert [r.image.data for r in pool.map(records.__getitem__, places)] == expected


def test_a_layout_that_the_folder_has_not(both):
    source, folder = both
    for path, layout, part in [
        (source, "packed", "index.json: no such file (layout packed)"),
        (folder, "imagefolder", "metadata.jsonl: no such file (layout imagefolder); the folder is"),
        (folder, "ffhq", "split 'all'); the folder is packed: set the layout to packed"),
    ]:
        with pytest.raises(InputError) as error:
            open_records(path, layout)
        assert part in str(error.value)


def test_two_layouts_in_one_folder(imagefolder, tmp_path):
    pack(DataConfig(path=str(imagefolder)), tmp_path)
    (tmp_path / "metadata.jsonl").touch()
    with pytest.raises(InputError, match="set the layout to one of imagefolder, packed"):
        open_records(tmp_path)
    assert len(open_records(tmp_path, "packed")) == 4
