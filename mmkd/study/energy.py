"""Energy that the machine says it has used: processors by RAPL, NVIDIA cards by NVML."""

from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """What processors and cards of this machine have used since it was made, everything that ran on it included.

    Args:
        powercap: where the kernel shows its counters.

    Source: https://docs.kernel.org/power/powercap/powercap.html; NVML, nvmlDeviceGetTotalEnergyConsumption.
    """

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        self._powercap = powercap
        self._first = {**_processors(powercap), **_cards()}

    def joules(self) -> float | None:
        """Joules since then; ``None`` where the machine tells nothing."""
        now = {**_processors(self._powercap), **_cards()}
        if not now or now.keys() != self._first.keys():
            return None
        return sum(self._used(name, now[name]) for name in now)

    def _used(self, name: str, now: float) -> float:
        used = now - self._first[name]
        # A processor's counter starts again from 0 at a range that it tells, some hours' worth.
        return used if used >= 0 else used + _number(self._powercap / name / "max_energy_range_uj") / 1e6


def _processors(powercap: Path) -> dict[str, float]:
    """Joules by counter; packages alone, which their parts are counted in."""
    found = {}
    for folder in sorted(powercap.glob("intel-rapl:*")) if powercap.is_dir() else []:
        try:
            if (folder / "name").read_text().startswith("package"):
                found[folder.name] = _number(folder / "energy_uj") / 1e6
        except (OSError, ValueError):  # readable by root alone on most machines
            continue
    return found


def _number(path: Path) -> float:
    return float(path.read_text())


def _cards() -> dict[str, float]:
    """Joules by card, where NVIDIA's library is installed and the card counts them."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        cards = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return {
            f"card {i}": pynvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1e3
            for i, card in enumerate(cards)
        }
    except pynvml.NVMLError:
        return {}
