"""The evaluation of the bundled model: what it accepts as right, and its table."""

import json
from pathlib import Path

import eval_tiny
import pytest
from eval_questions import HELD_OUT, Item

BUNDLED = Path(__file__).resolve().parents[1] / eval_tiny.BUNDLED


def is_right(given, *answers, kind="describe"):
    return Item((), (), HELD_OUT, kind, answers).is_right(given)


@pytest.fixture
def evaluate(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["eval_tiny.py", *map(str, arguments)])
        status = eval_tiny.main()
        return status, capsys.readouterr().out

    return run


def test_shapes_named_in_another_order_are_the_same_answer():
    said = "A red circle grows and a blue ring stays still."
    assert is_right("A blue ring stays still and a red circle grows.", said)


def test_colors_of_two_shapes_exchanged_are_wrong():
    assert not is_right(
        "A blue circle grows and a red ring stays still.", "A red circle grows and a blue ring stays still."
    )


def test_the_last_of_three_shapes_keeps_its_background():
    said = "A small red circle, a large blue star and a small green cross on a striped background."
    assert is_right("A small green cross, a small red circle and a large blue star on a striped background.", said)
    assert not is_right("A small green cross, a small red circle and a large blue star on a dotted background.", said)


def test_order_counts_where_order_is_asked_for():
    assert not is_right("The blue square and the red circle.", "The red circle and the blue square.", kind="order")


def test_every_accepted_answer_is_right_and_a_full_stop_more_or_less():
    assert [is_right(given, "No.", "I only know simple drawn shapes.") for given in ("No", "no.", "Yes.")] == [1, 1, 0]


def test_the_same_weights_against_themselves_differ_by_nothing(evaluate):
    _, said = evaluate("--kinds", "color", "--num", "10", "--against", BUNDLED)
    row = next(line for line in said.splitlines() if line.startswith("| color "))
    assert row.count("(+0.0)") == 3


def test_wrong_answers_are_written_as_json_lines_with_the_right_ones(evaluate, tmp_path):
    status, _ = evaluate("--kinds", "options", "--num", "20", "--wrong", tmp_path / "wrong.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "wrong.jsonl").read_text().splitlines()]
    assert all(line["given"] not in line["right"] for line in lines)
    assert status == bool([line for line in lines if line["column"] == HELD_OUT])


def test_against_names_what_is_neither_a_folder_nor_a_commit(evaluate):
    with pytest.raises(SystemExit, match="--against 'nothing' is no folder, and no commit"):
        evaluate("--kinds", "color", "--num", "10", "--against", "nothing")
