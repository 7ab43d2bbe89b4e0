"""GRAIL in verl: from the config to the actor's advantages. Knows verl, ranks, credit/ and the format of records.

    launch.py        a config before Ray starts: checks, and the options' way to the workers
    handover.py      the options as workers are given them, where the plugin is active
    patches.py       what verl has no extension point for
    estimator.py     the name `grail`, by which the hook is switched on
    loss.py          losses in which the weights would be lost
    packing.py       models that mix the rows of a packed micro-batch
    worker.py        the hook, step by step; batch.py verl's data, engine_pass.py the pass, metrics.py
    sharing.py       who scores which rows: all ranks do alike
    dump.py          records of a run; claim.py keeps a second run out of their folder
    pictures.py      figures of them in verl's logger
    failure.py       a rank that fails ends the others too
    truncation.py    an agent loop that masks truncated responses
"""
