import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines.dataset.measured_files import MeasuredFiles
from beam_pipelines.dataset.shards import (
    MAX_SHARD_BYTES,
    NUM_READERS,
    example_key,
    num_shards,
    plan_shards,
)

pytestmark = pytest.mark.slow


def measured(number, num_frames, num_bytes=1000):
    source_id = f"videoSRC{number:03d}"
    return MeasuredFiles(
        source_id=source_id,
        pairs=f"made/{source_id}.pairs.parquet",
        quality=f"made/{source_id}.quality.parquet",
        frame_indices=tuple(15 + 30 * index for index in range(num_frames)),
        num_bytes=num_bytes,
        rejects=(),
        is_final=True,
    )


SOURCES = st.lists(
    st.tuples(
        st.integers(1, 60),
        st.sampled_from(["train", "validation", "test"]),
        st.sampled_from([1, MAX_SHARD_BYTES, 40 * MAX_SHARD_BYTES]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(drawn=SOURCES, seed=st.integers(0, 99))
def test_every_example_is_in_one_shard_and_shards_are_even(drawn, seed):
    sources = [measured(i, frames, size) for i, (frames, _, size) in enumerate(drawn)]
    splits = {each.source_id: split for each, (_, split, _) in zip(sources, drawn, strict=True)}
    plan = plan_shards(sources, splits)
    mixed = random.Random(seed).sample(sources, len(sources))
    assert plan_shards(mixed, splits) == plan

    for split in set(splits.values()):
        shards = [shard for shard in plan if shard.split == split]
        assert [shard.index for shard in shards] == list(range(len(shards)))
        assert {shard.num_shards for shard in shards} == {len(shards)}
        examples = Counter(example for shard in shards for example in shard.examples)
        assert examples == Counter(
            (each.pairs, row)
            for each in sources
            if splits[each.source_id] == split
            for row in range(len(each.frame_indices))
        )
        lengths = [len(shard.examples) for shard in shards]
        assert max(lengths) - min(lengths) <= 1
        assert min(lengths) >= 1
        assert len(shards) % NUM_READERS == 0 or (sum(lengths) < NUM_READERS and len(shards) == 1)
    assert {shard.split for shard in plan} == set(splits.values())


@given(num_examples=st.integers(1, 10**6), num_bytes=st.integers(1, 10**14))
def test_the_number_of_shards_is_a_multiple_of_the_readers_and_no_larger_than_needed(
    num_examples, num_bytes
):
    count = num_shards(num_examples, num_bytes)
    if num_examples < 64:
        assert count == 1
        return
    assert count % 64 == 0
    assert count <= num_examples
    # As small as requested, or as many as there are examples.
    assert num_bytes / count <= 2**28 or count + 64 > num_examples
    # Not more of them than that takes.
    assert count == 64 or num_bytes / (count - 64) > 2**28


def test_neighboring_frames_are_spread_over_shards():
    sources = [measured(number, 64) for number in range(4)]
    (first, *_) = plan_shards(sources, {each.source_id: "train" for each in sources})
    # 256 examples in 64 shards: four each; in the order of input they would be of one source.
    assert len({location for location, _ in first.examples}) > 1


def test_an_example_key_holds_source_and_frame():
    assert example_key("videoSRC007", 15) == "videoSRC007_00015"
