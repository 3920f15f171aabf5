"""The baseline for `emoji` (scripts/colour.py) at 48x48: `fashion` for colour, with the paper's colour noise.

python -m alexnet_jax.ablate --base experiments/bases/emoji.py --data data/emoji --out results/emoji
"""

from dataclasses import replace

from alexnet_jax import preset

BASE = preset("fashion")
CONFIG = replace(
    BASE,
    model=replace(BASE.model, channels=3, image_size=40, fc8=replace(BASE.model.fc8, units=1911)),
    optim=replace(BASE.optim, epochs=60.0),
    data=replace(BASE.data, pad=0, colour_noise="stdev"),
)
