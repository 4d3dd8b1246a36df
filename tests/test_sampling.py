"""Which frames are sampled."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videollava_cli.sampling import Moments, Timeline, Window, repetition_notice, uniform_indices

times = st.lists(st.floats(0, 100, allow_nan=False), max_size=30).map(sorted)
bounds = st.none() | st.floats(0, 100, allow_nan=False)


@given(total=st.integers(1, 10_000_000))
def test_indices_equal_the_documented_numpy_rule(total):
    documented = np.arange(0, total, total / 8).astype(int).tolist()

    indices = uniform_indices(total)

    assert indices == documented


@given(total=st.integers(1, 10**12), num_frames=st.integers(1, 64))
def test_indices_are_as_many_as_asked_for_sorted_and_inside_the_clip(total, num_frames):
    indices = uniform_indices(total, num_frames)

    assert len(indices) == num_frames
    assert indices == sorted(indices)
    assert indices[0] == 0
    assert indices[-1] < total


def test_clip_of_exactly_eight_frames_gives_each_frame_once():
    assert uniform_indices(8) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_clip_shorter_than_eight_frames_repeats_frames():
    assert uniform_indices(3) == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("total", [0, -1])
def test_no_frames_to_sample_from_is_an_error_that_names_the_total(total):
    with pytest.raises(ValueError, match=f"total is {total}"):
        uniform_indices(total)


@given(seconds=times, start=bounds, end=bounds)
def test_window_holds_the_frames_from_its_start_up_to_but_not_at_its_end(seconds, start, end):
    inside = [
        position
        for position, second in enumerate(seconds)
        if (start is None or second >= start) and (end is None or second < end)
    ]

    positions = Window(start, end).positions(seconds)

    assert list(positions) == inside


def test_open_window_holds_every_frame():
    assert Window().positions([0.0, 0.5, 1.0]) == range(3)


def test_window_behind_the_last_frame_is_empty():
    assert len(Window(start=2.0).positions([0.0, 1.0])) == 0


@pytest.mark.parametrize(("num_frames", "count"), [(1, "1 frame"), (7, "7 frames")])
def test_notice_of_repeated_frames_tells_both_numbers(num_frames, count):
    assert repetition_notice("a.mp4", num_frames) == f"'a.mp4' has {count} to sample: repeated to make 8"


@given(
    seconds=st.lists(st.floats(0, 100), min_size=1, max_size=30).map(sorted),
    moments=st.lists(st.floats(0, 100), min_size=8, max_size=8).map(sorted),
    duration=st.floats(1, 100),
)
def test_moments_take_the_last_frame_that_is_not_later(seconds, moments, duration):
    displayed = [max((i for i, second in enumerate(seconds) if second <= moment), default=0) for moment in moments]
    end = seconds[-1] + duration

    chosen = Moments(tuple(moments)).chosen(Timeline(seconds, end))

    assert chosen == (displayed if moments[-1] < end else [])


def test_moment_behind_the_end_is_complained_of_with_the_time_of_the_last_frame():
    moments, clip = Moments((0, 1, 2, 3, 4, 5, 6, 7.5)), Timeline([0.0, 7.0], 7.5)

    assert moments.chosen(clip) == []
    assert moments.error_message("a.mp4", clip) == "'a.mp4' has no frame at 7.5 s: its last frame is at 7.00 s"


def test_same_moment_may_be_taken_eight_times_without_a_notice():
    moments, clip = Moments((1.0,) * 8), Timeline([0.0, 1.0, 2.0], 3.0)

    assert moments.chosen(clip) == [1] * 8
    assert moments.notices("a.mp4", clip) == []


@pytest.mark.parametrize(
    ("start", "end", "shown"), [(3.2, 3.9, 3), (3.2, 4.0, 3), (9.5, None, 9), (9.999, 99.0, 9), (0.1, 0.2, 0)]
)
def test_window_in_which_no_frame_begins_takes_the_one_on_display_at_its_start(start, end, shown):
    assert Window(start, end).chosen(Timeline(range(10), 10)) == [shown] * 8


def test_window_in_front_of_the_first_frame_takes_that_frame():
    assert Window(None, 0.1).chosen(Timeline([0.2, 0.3], 0.4)) == [0] * 8


@pytest.mark.parametrize(("start", "end"), [(10.0, None), (10.0, 11.0), (99.0, 100.0)])
def test_window_behind_the_end_of_the_clip_takes_nothing(start, end):
    assert Window(start, end).chosen(Timeline(range(10), 10)) == []


@pytest.mark.parametrize(
    ("window", "between"), [(Window(3.2, 3.9), "3.2 s and 3.9 s"), (Window(3.2), "3.2 s and the end")]
)
def test_window_in_which_no_frame_begins_is_told_with_the_frame_that_is_shown(window, between):
    notice = (
        f"no frame of 'a.mp4' begins between {between}: the one that is shown then, at 3.00 s, is repeated to make 8"
    )

    assert window.notices("a.mp4", Timeline([0.0, 1.5, 3.0], 4.0)) == [notice]


@pytest.mark.parametrize("seconds", [(1.0,) * 7, (), (2.0, *range(7)), (-1.0, *range(7))])
def test_moments_that_are_not_eight_ascending_ones_are_refused(seconds):
    with pytest.raises(ValueError, match="not 8 ascending times from 0 on"):
        Moments(seconds)


@pytest.mark.parametrize(
    ("sampling", "is_whole"),
    [(Window(), True), (Window(0.0), False), (Window(None, 1.0), False), (Moments((0.0,) * 8), False)],
)
def test_only_a_window_without_bounds_is_the_whole_clip(sampling, is_whole):
    assert sampling.is_whole is is_whole
