"""Files of scores: what they may hold, and what is said of all else."""

import random

import pytest

from pullback.cli.labels import read_scores


def written(tmp_path, text):
    path = tmp_path / "scores.csv"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("head", ["", "score\n", "Label\n"])
def test_one_score_a_line_is_of_the_seeds_in_order(tmp_path, head, end):
    path = written(tmp_path, f"{head}0.5\n-1e3\n\n  2{end}")
    assert read_scores(path, 7, None) == (0.5, -1000.0, 2.0)
    assert read_scores(path, 0, 3) == (0.5, -1000.0, 2.0)


def test_the_mark_that_spreadsheets_begin_with_is_left_out(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("seed,score\n5,1\n6,2\n", "utf-8-sig")
    assert read_scores(path, 5, None) == (1.0, 2.0)


@pytest.mark.parametrize("head", ["", "seed,score\n", "seed, label\n"])
@pytest.mark.parametrize("between", [",", " ", ", ", "\t"])
def test_seeds_with_scores_may_be_in_any_order(tmp_path, head, between):
    scores = {seed: random.random() for seed in range(20, 30)}
    lines = [f"{seed}{between}{score!r}" for seed, score in scores.items()]
    random.shuffle(lines)
    path = written(tmp_path, head + "\n".join(lines))
    assert read_scores(path, 20, None) == tuple(scores.values())


WRONG = [
    ("1\n2\n3", 4, "Expected 4 scores", "seeds 5 to 8, got 3"),
    ("1\n2\n3", 2, "Expected 2 scores", "ask for 3 samples"),
    ("5,1\n6,2\n9,3", None, "Expected the seeds 5 to 7", "got 9 too"),
    ("0,1\n1,2\n2,3", None, "Expected the seeds 5 to 7", "got 0, 1, 2 too"),
    ("5,1\n6,2\n6,3", None, "Expected the seeds 5 to 7", "got a seed twice"),
    ("5.5,1\n6,2", None, "Expected the seeds 5 to 6", "got 5.5 too"),
    ("", None, "Expected one score a line", "got 0 lines"),
    ("score\n", None, "Expected one score a line", "got 0 lines"),
    ("1\n2,3", None, "Expected one score a line", "in"),
    ("1\nbright", None, "Expected one score a line", "got 'bright'"),
    ("1\nnan", None, "Expected one score a line", "got 'nan'"),
    ("1,2,3", None, "Expected one score a line", "got '1 2 3'"),
]


@pytest.mark.parametrize(("text", "samples", "words", "also"), WRONG)
def test_what_is_no_file_of_scores_is_told(tmp_path, text, samples, words, also):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=words) as caught:
        read_scores(path, 5, samples)
    assert also in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_text_is_told(tmp_path):
    path = tmp_path / "scores.npy"
    path.write_bytes(b"\x93NUMPY\xff\xfe")
    with pytest.raises(ValueError, match="is no text"):
        read_scores(path, 0, None)
    with pytest.raises(FileNotFoundError):
        read_scores(tmp_path / "none.csv", 0, None)
