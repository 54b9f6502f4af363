"""Two to eight processes that write one cache: each shard has one owner, and the others wait or leave."""

from collections import Counter
from pathlib import Path

import pytest
from cache_processes import SHARDS, Command, Process, Processes, Workload, contents, file_operations

pytestmark = pytest.mark.slow


def start_together(processes: Processes, command: Command, count: int, *, launched: bool) -> list[Process]:
    """``count`` processes of one launch, or as many users who type the same command."""
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)} for rank in range(count)]
    return [processes.start(command, environment=place if launched else {}) for place in places]


@pytest.mark.parametrize("launched", [True, False], ids=["launched", "typed"])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_each_shard_has_one_owner(
    processes: Processes, workload: Workload, tmp_path: Path, count: int, launched: bool
) -> None:
    command = workload.command("build", tmp_path / "cache")
    started = start_together(processes, command, count, launched=launched)
    for process in started:
        assert process.wait() == 0, process.said
    assert contents(command.folder) == workload.expected("build")
    embedded = Counter(index for process in started for index in process.embedded)
    assert embedded == Counter(range(SHARDS))
    renamed = Counter(
        line for process in started for line in file_operations(process) if "rename shard" in line
    )
    assert set(renamed.values()) == {1}


def test_another_cache_into_the_same_folder_is_refused_while_one_is_written(
    processes: Processes, workload: Workload, tmp_path: Path
) -> None:
    """Different settings, started together: one of them ends, the other says who is at it, no file is mixed."""
    first = workload.command("build", tmp_path / "cache")
    second = Command([*first.arguments, "--views", "2"], first.folder)
    for one, other in ((first, second), (second, first)):
        pair = [processes.start(one), processes.start(other)]
        codes = sorted(process.wait() for process in pair)
        assert codes == [0, 1], [process.said for process in pair]
        (refused,) = (process for process in pair if process.code == 1)
        said = "is taken: process", "views 1 (here 2 ", "views 2 (crop+flip, seed 0) (here 1)"
        assert any(words in refused.said for words in said), refused.said
        assert "Traceback" not in refused.said
        (done,) = (process for process in pair if process.code == 0)
        views = 2 if "--views" in (one if done is pair[0] else other).arguments else 1
        sizes = {len(data) for name, data in contents(first.folder).items() if name.endswith("1.h5")}
        assert len(sizes) == 1
        assert (contents(first.folder) == workload.expected("build")) == (views == 1)
        for path in list(first.folder.iterdir()):
            path.unlink()
        first.folder.rmdir()
