"""``mmkd push``: a run's student onto the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from mmkd.cli.completion import complete_runs
from mmkd.cli.console import say, warn


def push(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The run whose student is sent.", autocompletion=complete_runs),
    ],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="NAME, or OWNER/NAME.")],
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see a new repository; default: only you.")
    ] = False,
    license_id: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="Of the student, as the Hub names it, such as mit."),
    ] = None,
) -> None:
    """Send a run's student to the Hugging Face Hub: weights, configuration, tokenizer and model card, nothing else.

    A repository that is not there is made, private unless --public says otherwise. Logs in with HF_TOKEN or what
    `hf auth login` left; the token must be allowed to write.

    \b
      mmkd push work/runs/mine my-name/clip-small
      mmkd push work/runs/mine clip-small --public --license mit
    """
    from mmkd.publish import files_to_publish, is_written_here, publish
    from mmkd.runs import read_run

    found = read_run(run)
    files = files_to_publish(found)
    size = sum(file.stat().st_size for file in files)
    if license_id is not None and not is_written_here(found):
        warn("--license is left out: the student's README.md is one of your own, and is sent as it is")
    for line in doubts(run):
        warn(line)
    say("sends", f"{len(files)} files, {size / 1e6:.1f} MB: {', '.join(file.name for file in files)}")
    done = publish(found, repository, public=public, license_id=license_id)
    how = (
        ("a new public repository" if public else "a new private repository")
        if done.created
        else "a new commit"
    )
    say("pushed", f"{how} · {done.url}")


def doubts(run: Path) -> list[str]:
    """What the run's scores say against publishing it."""
    from mmkd.cli.list_runs import list_folder

    (listed,) = list_folder(run)
    if listed.scores is None:
        return ["not evaluated: its card will say so; run mmkd eval zero-shot first to have its scores there"]
    if listed.scores and all(one["at_chance"] or one["collapsed"] for one in listed.scores.values()):
        return [f"at chance or collapsed on {', '.join(listed.scores)}: this student knows nothing of them"]
    return []
