"""Four columns on four devices, which meet at conv3, fc6 and fc7 as the two of 2012 did.

JAX_NUM_CPU_DEVICES=4 python examples/four_columns.py
"""

from dataclasses import replace

import alexnet_jax as alexnet

config = alexnet.preset("fashion")
config = replace(config, model=replace(config.model, columns=4))

if __name__ == "__main__":
    mesh = alexnet.make_mesh(data=1, columns=4)
    run = alexnet.fit(config, "runs/four_columns", mesh=mesh)
    print(alexnet.evaluate(run.path, crops=10))  # on any mesh: this one suits the machine
