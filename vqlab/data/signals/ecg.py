"""Generated electrocardiograms: no download, no recordings of persons."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import torch

from vqlab.data.signals.base import SignalDataModule, Windows
from vqlab.errors import UserError
from vqlab.validation import NonNegative, Positive, Range

# Wave: time after the R wave at 60 beats per minute (s), width (standard deviation, s), height (mV). Textbook values of
# lead II; the times of P and T depend on the heart rate.
WAVES = {
    "P": (-0.17, 0.022, 0.12),
    "Q": (-0.028, 0.009, -0.10),
    "R": (0.0, 0.011, 1.0),
    "S": (0.028, 0.010, -0.22),
    "T": (0.30, 0.045, 0.28),
}
ECTOPIC = {"R": (0.0, 0.035, 1.1), "S": (0.08, 0.035, -0.5), "T": (0.32, 0.06, -0.35)}  # wide, without P, T inverted
# Height of each wave relative to lead II, textbook values.
LEADS = {
    "II": dict.fromkeys(WAVES, 1.0),
    "V1": {"P": 0.5, "Q": 0.0, "R": 0.25, "S": 4.0, "T": -0.3},
    "V5": {"P": 0.7, "Q": 1.2, "R": 1.3, "S": 1.5, "T": 1.1},
}


class ECG(SignalDataModule):
    """Generated ECG of lead II, or of II, V1 and V5, in mV before standardisation.

    Each record is a different person: waves P, Q, R, S, T as Gaussians (after McSharry et al. 2003); a heart rate of 50
    to 110 per minute with respiration and drift; premature ventricular beats in some; baseline wander, muscle noise and
    mains hum. The data allow no conclusion about real hearts.

    Args:
        num_records: Number of persons in all splits together.
        seconds: Length of a record.
        sample_rate: Samples per second.
        noise: Factor of wander, noise and hum.
        leads: Number of leads, in the order II, V1, V5. The waves of a beat are simultaneous; their heights, and the
            noise, differ by lead.
        **common: Arguments of :class:`~vqlab.data.signals.base.SignalDataModule`.

    Example:
        >>> data = ECG(num_records=20, length=256)
        >>> data.setup("fit")
        >>> tuple(next(iter(data.train_dataloader()))["signal"].shape)
        (64, 1, 256)
    """

    def __init__(
        self,
        num_records: Annotated[int, Range(10)] = 200,
        seconds: Positive = 60,
        sample_rate: Annotated[float, Range(50)] = 100,
        noise: NonNegative = 1.0,
        leads: Annotated[int, Range(1, len(LEADS))] = 1,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.samples = int(seconds * sample_rate)
        if self.samples < self.length:
            needed = f"{self.length / sample_rate:g} for a window of {self.length} samples"
            raise UserError(f"seconds must be at least {needed}, got {seconds:g}: or set length={self.samples}")
        self.sample_rate, self.noise = sample_rate, noise
        self.channels, self.leads = leads, [*LEADS][:leads]
        if leads > 1:  # a model of one lead encodes records of any
            self.channel_names = self.leads
        held_out = max(1, num_records // 10)
        self.sizes = {"train": num_records - 2 * held_out, "val": held_out, "test": held_out}
        self.train_size = self.sizes["train"] * ((self.samples - self.length) // self.stride + 1)

    def load_split(self, split: str) -> Windows:
        place = list(self.sizes).index(split)
        seeds = [(self.seed, place, number) for number in range(self.sizes[split])]
        signals = (ecg(self.samples, self.sample_rate, self.noise, seed, self.leads) for seed in seeds)
        records = [*map(torch.from_numpy, signals)]
        return Windows(records, self.length, self.stride)


def ecg(samples: int, sample_rate: float, noise: float, seed: tuple[int, ...], leads: Sequence[str]) -> np.ndarray:
    """Return one person's ECG (leads, samples) float32 in mV; a lead does not depend on those after it."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / sample_rate
    person = {name: (at, *(np.array(size) * rng.lognormal(0, 0.2, 2))) for name, (at, *size) in WAVES.items()}
    signal = np.zeros((len(leads), samples))
    for peak, interval, early in [*heartbeats(samples / sample_rate, rng)]:  # all draws of the beats come first
        for name, (at, width, height) in (ECTOPIC if early else person).items():
            # Bazett's formula: the times of P and T scale with the square root of the beat's interval.
            at = at * (np.sqrt(interval) if name in "PT" else 1) * rng.lognormal(0, 0.02)
            first, last = (int((peak + at + end * width) * sample_rate) for end in (-5, 5))
            near = slice(max(0, first), max(0, last))
            bell = np.exp(-((time[near] - peak - at) ** 2) / (2 * width**2))
            bell *= height * rng.lognormal(0, 0.05)
            signal[:, near] += np.array([LEADS[lead][name] for lead in leads])[:, None] * bell
    noises = [disturbance(time, sample_rate, rng) for _ in leads]
    return (signal + noise * np.stack(noises)).astype(np.float32)


def heartbeats(seconds: float, rng: np.random.Generator) -> Iterator[tuple[float, float, bool]]:
    """Yield for each beat the time of its R wave (s), the interval before it (s), and whether it is premature."""
    rate, breath, swing = rng.uniform(50, 110), rng.uniform(0.15, 0.35), rng.uniform(0.01, 0.06)
    premature = rng.uniform(0.02, 0.15) if rng.random() < 0.2 else 0.0
    now, drift, pause = rng.uniform(-1, 0), 0.0, False
    while now < seconds + 1:
        drift = 0.98 * drift + 0.01 * rng.standard_normal()
        interval = 60 / rate * np.exp(drift + swing * np.sin(2 * np.pi * breath * now))
        early = not pause and rng.random() < premature
        interval *= 0.6 if early else 1.4 if pause else 1.0  # the compensatory pause
        pause, now = early, now + interval
        yield now, interval, early


def disturbance(time: np.ndarray, sample_rate: float, rng: np.random.Generator) -> np.ndarray:
    """Return baseline wander, muscle noise and mains hum, in mV."""
    wander = sum(
        rng.uniform(0.02, 0.12) * np.sin(2 * np.pi * (rng.uniform(*band) * time + rng.random()))
        for band in ((0.02, 0.1), (0.1, 0.2), (0.2, 0.4))
    )
    muscle = rng.uniform(0.005, 0.03) * rng.standard_normal(len(time))
    mains = rng.choice([50.0, 60.0])
    hum = rng.uniform(0, 0.02) * np.sin(2 * np.pi * mains * time) if mains < sample_rate / 2 else 0.0
    return wander + muscle + hum
