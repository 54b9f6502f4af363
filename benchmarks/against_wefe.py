"""The association measures beside wefe's, the second source: same vectors, same word sets, both libraries' numbers.

wefe pins an older numpy, so it runs in an environment of its own, which this makes where there is none:

    python benchmarks/against_wefe.py --data ../shared/data/oracles

WEAT's p is not compared: wefe draws its permutations with replacement.
"""

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np

from mmkd.evaluation.bias import ect, mac, rnd, weat

# Two target sets and two attribute sets; the last three measures take the first target set.
TESTS = (
    ("male_names", "female_names", "career", "family"),
    ("math", "arts", "male_terms", "female_terms"),
    ("career", "family", "male_terms", "female_terms"),
    ("arts", "math", "female_terms", "male_terms"),
)
AGREE = 1e-6

WEFE = """
import json, sys
import numpy as np
from gensim.models import KeyedVectors
from wefe.metrics import ECT, MAC, RND, WEAT
from wefe.query import Query
from wefe.word_embedding_model import WordEmbeddingModel

archive, sets, tests = np.load(sys.argv[1]), json.load(open(sys.argv[2])), json.loads(sys.argv[3])
vectors = KeyedVectors(archive["vectors"].shape[1])
vectors.add_vectors(archive["words"].tolist(), archive["vectors"])
model = WordEmbeddingModel(vectors, "oracle")
found = []
for x, y, a, b in tests:
    pair = WEAT().run_query(Query([sets[x], sets[y]], [sets[a], sets[b]]), model)
    # For RND, ECT and MAC wefe's targets are the two groups, and its attributes the neutral words.
    groups = Query([sets[a], sets[b]], [sets[x]])
    found.append({
        "WEAT T": pair["weat"], "WEAT d, ddof 0": pair["effect_size"],
        "RND": RND().run_query(groups, model, distance="norm")["result"],
        "ECT": ECT().run_query(groups, model)["result"],
        "MAC": MAC().run_query(groups, model)["result"],
    })
print(json.dumps([{name: float(value) for name, value in one.items()} for one in found]))
"""


def main() -> None:
    """Print a line a test and measure; leave with 1 where the two differ by more than 1e-6."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of weat_word2vec.npz and weat_sets.json"
    )
    parser.add_argument(
        "--environment", type=Path, default=Path("build/wefe"), help="where wefe is, or is put"
    )
    arguments = parser.parse_args()
    theirs = ask_wefe(environment_python(arguments.environment), arguments.data)
    worst = 0.0
    for names, expected in zip(TESTS, theirs, strict=True):
        found = ours(arguments.data, names)
        for measure, value in found.items():
            difference = abs(value - expected[measure])
            worst = max(worst, difference)
            print(
                f"{' '.join(names):<46} {measure:<15} {value:11.7f} {expected[measure]:11.7f}  {difference:.0e}"
            )
    print(f"largest difference {worst:.1e}")
    sys.exit(int(worst > AGREE))


def ours(data: Path, names: tuple[str, str, str, str]) -> dict[str, float]:
    """mmkd's numbers of one test."""
    archive = np.load(data / "weat_word2vec.npz")
    vectors = dict(zip(archive["words"].tolist(), archive["vectors"].astype(np.float64), strict=True))
    sets = json.loads((data / "weat_sets.json").read_text())
    x, y, a, b = (np.array([vectors[word] for word in sets[name]]) for name in names)
    pair = weat(x, y, a, b)
    return {
        "WEAT T": pair.statistic,
        "WEAT d, ddof 0": pair.effect_size_population,
        "RND": rnd(a, b, x),
        "ECT": ect(a, b, x),
        "MAC": mac(x, [a, b]),
    }


def ask_wefe(python: Path, data: Path) -> list[dict[str, float]]:
    """wefe's numbers of all tests, from a process of its own."""
    command = [
        str(python),
        "-W",
        "ignore",
        "-c",
        WEFE,
        str(data / "weat_word2vec.npz"),
        str(data / "weat_sets.json"),
    ]
    answer = subprocess.run([*command, json.dumps(TESTS)], check=True, capture_output=True, text=True)
    found: list[dict[str, float]] = json.loads(answer.stdout.splitlines()[-1])
    return found


def environment_python(folder: Path) -> Path:
    """The Python of an environment that has wefe, made and filled where it is not there."""
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "wefe"], check=True)
    return python


if __name__ == "__main__":
    main()
