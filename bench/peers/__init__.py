"""Other servers beside ours, in one run: the same model, clips, machine and measure. `run` is the benchmark.

Boundary: of the others' programs nothing is here; `environments` installs them from the package index, `launch` and
`checkpoint` run inside their processes and import nothing of ours but `bench.mirror`.
"""
