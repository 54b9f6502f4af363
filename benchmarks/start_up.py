"""``mmkd --help``: how long it takes, and that it imports no torch.

python benchmarks/start_up.py
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

from side_by_side import Bench, Side, arguments

HELP = "mmkd --help"


def main() -> None:
    """Measure, print and write the result."""
    options = arguments(__doc__).parse_args()
    bench = Bench(__file__, options)
    script = Path(sys.executable).with_name("mmkd")
    side = Side()
    subprocess.run([script, "--help"], check=True, capture_output=True)
    for _ in range(max(options.repeats, 1)):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([script, "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        side.wall.append(time.perf_counter() - start)
        side.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    bench.sides[HELP] = side
    bench.figure(f"{HELP}, seconds", side.median(options.clock), at_most=0.3)
    bench.figure(f"{HELP}, seconds of the processor", side.median("cpu"), at_most=0.3)
    code = (
        "import sys, mmkd.cli.app as app\n"
        "try: app.run(['--help'])\n"
        "except SystemExit: pass\n"
        "print('heavy', sorted({'torch', 'transformers', 'numpy', 'h5py'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = done.stderr.partition("heavy ")[2].strip()
    bench.figure("heavy libraries imported", float(heavy.count("'") / 2), at_most=0, note=heavy)
    bench.close()


if __name__ == "__main__":
    main()
