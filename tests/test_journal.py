"""The journal: what is done is kept, a torn line is not, another plan is refused."""

from pathlib import Path

import pytest

from blsp.errors import InputError
from blsp.journal import Journal, run_batches

PLAN = {"model": "a", "prompts": "b"}


def finish(path: Path, count: int, plan: dict[str, str] = PLAN) -> list[int]:
    """Run batches [[0, 1], [2, 3], ...] that are not done yet; return the numbers of those run."""
    run: list[int] = []

    def work(number: int, batch: list[int]) -> list[int]:
        run.append(number)
        return batch

    batches = [[2 * i, 2 * i + 1] for i in range(count)]
    journal = Journal(path, plan)
    assert run_batches(journal, batches, work, lambda _: None) == list(range(2 * count))
    journal.close()
    return run


def test_finished_batches_are_not_done_again(tmp_path: Path) -> None:
    assert finish(tmp_path / "out", 2) == [0, 1]
    assert finish(tmp_path / "out", 4) == [2, 3]


@pytest.mark.parametrize("cut", [1, 10])
def test_a_torn_line_is_done_again(tmp_path: Path, cut: int) -> None:
    finish(tmp_path / "out", 2)
    journal = tmp_path / "out.journal"
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert finish(tmp_path / "out", 3) == [1, 2]


def test_a_journal_that_never_got_its_plan_begins_again(tmp_path: Path) -> None:
    (tmp_path / "out.journal").write_text('{"plan": {"mod')
    assert finish(tmp_path / "out", 1) == [0]


def test_another_plan_is_refused_by_name(tmp_path: Path) -> None:
    finish(tmp_path / "out", 1)
    with pytest.raises(InputError, match=r"the same prompts \(c\), found b"):
        Journal(tmp_path / "out", {"model": "a", "prompts": "c"})


def test_something_else_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.journal").write_text("hello\n")
    with pytest.raises(InputError, match="delete it to begin again"):
        Journal(tmp_path / "out", PLAN)


def test_it_is_gone_when_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out", PLAN)
    journal.remove()
    assert list(tmp_path.iterdir()) == []
